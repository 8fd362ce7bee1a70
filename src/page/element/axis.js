// The time axis: which idle time is folded, where a moment is drawn, and where the ticks are. Pure.

import { SHORTEST_GAP, isSleep } from "./model.js";
import { brief } from "./text.js";

/** The width of a fold, and the least width between two ticks, in pixels. */
const FOLD_WIDTH = 56;
const TICK_WIDTH = 72;
/** The most segments of a bar; earlier ones are drawn as one. */
export const MOST_SEGMENTS = 12;

/**
 * The gaps to fold: the longest first, as long as they are longer than 10 s and than 5 % of the rest of the run. The
 * rest gets shorter with each, so that an hour next to a day is folded, too.
 * @param {number} start
 * @param {number} end
 * @param {{ from: number, to: number }[]} gaps
 */
export function foldsOf(start, end, gaps) {
  const longestFirst = gaps.filter(({ from, to }) => from >= start && to <= end).sort((a, b) => b.to - b.from - (a.to - a.from));
  let left = end - start;
  const folds = [];
  for (const gap of longestFirst) {
    const length = gap.to - gap.from;
    if (length <= Math.max(SHORTEST_GAP, 0.05 * left)) break;
    folds.push(gap);
    left -= length;
  }
  return folds.sort((a, b) => a.from - b.from);
}

export class Axis {
  /**
   * @param {number} start
   * @param {number} end
   * @param {{ from: number, to: number }[]} folds in order, and apart
   * @param {number} width in pixels
   */
  constructor(start, end, folds, width) {
    this.start = start;
    this.end = Math.max(end, start + 1);
    this.width = Math.max(1, width);
    // However many folds there are, most of the width is for activity.
    const foldWidth = folds.length === 0 ? 0 : Math.min(FOLD_WIDTH / this.width, 0.4 / folds.length);
    const folded = folds.reduce((sum, { from, to }) => sum + to - from, 0);
    const shown = this.end - this.start - folded;
    const scale = shown > 0 ? (1 - foldWidth * folds.length) / shown : 0;
    /** @type {{ from: number, to: number, x: number, width: number, fold: boolean }[]} */
    this.pieces = [];
    let x = 0;
    const add = (/** @type {number} */ from, /** @type {number} */ to, /** @type {boolean} */ fold) => {
      const piece = { from, to, x, width: fold ? foldWidth : (to - from) * scale, fold };
      if (to > from) this.pieces.push(piece);
      if (to > from) x += piece.width;
    };
    let at = this.start;
    for (const { from, to } of folds) {
      add(at, from, false);
      add(from, to, true);
      at = to;
    }
    add(at, this.end, false);
    this.scale = scale;
  }

  /**
   * Where a moment is drawn, from 0 to 1.
   * @param {number} time
   */
  at(time) {
    if (time <= this.start) return 0;
    let low = 0;
    let high = this.pieces.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.pieces[middle].to < time) low = middle + 1;
      else high = middle;
    }
    const { from, to, x, width } = this.pieces[low];
    return Math.min(1, x + width * Math.min(1, Math.max(0, (time - from) / (to - from))));
  }

  get folds() {
    return this.pieces.filter(({ fold }) => fold);
  }

  /** Labels of the axis: time since the start, and after a fold since its end, with a `+`. */
  ticks() {
    const step = tickStep(TICK_WIDTH / this.width / (this.scale || 1));
    const ticks = [];
    for (const { from, to, fold } of this.pieces) {
      if (fold) continue;
      const first = from === this.start ? 0 : step;
      for (let after = first; from + after <= to && ticks.length < 60; after += step) {
        const x = this.at(from + after);
        // The last label must not be cut off by the edge.
        if (x * this.width > this.width - TICK_WIDTH / 2) break;
        ticks.push({ x, text: from === this.start ? (after === 0 ? "0" : brief(after)) : `+${brief(after)}` });
      }
    }
    return ticks;
  }
}

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500].concat(
  [1, 2, 5, 10, 15, 30].map((s) => s * 1000),
  [1, 2, 5, 10, 15, 30].map((min) => min * 60_000),
  [1, 2, 3, 6, 12].map((h) => h * 3_600_000),
);
const DAY_MS = 86_400_000;

/** @param {number} least */
function tickStep(least) {
  const found = STEPS.find((step) => step >= least);
  if (found !== undefined) return found;
  let days = 1;
  while (days * DAY_MS < least) days *= days.toString().startsWith("2") ? 2.5 : 2;
  return days * DAY_MS;
}

/**
 * The segments of a task's bar: failed attempts, the pauses after them, and the rest.
 * @param {import("./model.js").Task} task
 * @param {number} now
 * @returns {{ from: number, to: number, look: string }[]}
 */
export function segmentsOf(task, now) {
  const { failedAttempts, ended } = task;
  if (task.started === null && ended === null) return [];
  const end = Math.max(ended ?? now, task.started ?? 0);
  let at = /** @type {number} */ (task.started ?? ended);
  /** @type {{ from: number, to: number, look: string }[]} */
  const segments = [];
  const skipped = Math.max(0, failedAttempts.length - MOST_SEGMENTS / 2);
  failedAttempts.forEach((failed, index) => {
    if (failed.ended === null || failed.ended < at) return;
    if (index >= skipped) {
      segments.push({ from: at, to: failed.ended, look: "attempt" });
      at = failed.ended;
    }
    if (failed.retryAt !== null && failed.retryAt > at && index >= skipped) {
      const to = Math.min(failed.retryAt, end);
      segments.push({ from: at, to, look: "pause" });
      at = to;
    }
  });
  // The last attempt of a failed step ends with the step, although the log reports the step's end a moment later.
  const last = segments.at(-1);
  const isOver = task.state === "failed" && last !== undefined && (task.attempt ?? 0) <= (failedAttempts.at(-1)?.attempt ?? 0);
  if (isOver) last.to = end;
  else if (!(task.retryAt !== null && task.retryAt > now && at >= end)) segments.push({ from: at, to: Math.max(end, at), look: lookOf(task) });
  return segments;
}

/**
 * The look of a task: its state, or its activity if it is open.
 * @param {import("./model.js").Task} task
 */
export function lookOf(task) {
  if (task.state !== "running") return task.state;
  if (task.kind === "waitForEvent") return "waiting";
  if (isSleep(task)) return "sleeping";
  return task.retrying ? "retrying" : "running";
}
