// What remains, by what earlier runs took. Pure. The words are those of src/workflow/estimate.rs: tests/page/estimates.json has both.

import { brief } from "./text.js";

/** @typedef {{ medianMs: number, lowMs: number, highMs: number }} Estimate */

/**
 * What remains of something that has taken this long: `about 2 min, usually 1 to 4 min`.
 * @param {Estimate} estimate @param {number} took
 */
export function remains({ lowMs, medianMs, highMs }, took) {
  if (took > highMs) return "longer than usual";
  const most = rounded(highMs - took);
  if (took >= medianMs) return `up to ${most}`;
  const about = rounded(medianMs - took);
  const least = took < lowMs ? rounded(lowMs - took) : about === most ? most : "";
  if (least === most) return `about ${about}`;
  const [number, unit] = least.split(" ");
  const from = least === "" ? "up" : most.endsWith(` ${unit}`) ? number : least;
  return `about ${about}, usually ${from} to ${most}`;
}

/**
 * The same where no column says what it is; empty without an estimate.
 * @param {unknown} estimate @param {number | null} began @param {number} now
 */
export function leftOf(estimate, began, now) {
  const known = estimateOf(estimate);
  if (known === null || began === null) return "";
  const words = remains(known, Math.max(0, now - began));
  return words.startsWith("l") ? words : `left: ${words}`;
}

/** @param {any} data @returns {Estimate | null} */
export function estimateOf(data) {
  return [data?.medianMs, data?.lowMs, data?.highMs].every(Number.isFinite) ? data : null;
}

/** A length of time without what is noise in an estimate. @param {number} ms */
function rounded(ms) {
  const step = ms < 10_000 ? 1000 : ms < 120_000 ? 5000 : ms < 3_600_000 ? 60_000 : 900_000;
  return brief(Math.max(1000, Math.round(ms / step) * step));
}
