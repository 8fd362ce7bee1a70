// Words and numbers for people. Pure.

/** The most characters of a name, message or error that a row shows. The panel shows more. */
export const ROW_TEXT = 240;

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/**
 * A length of time in at most two units: `420 ms`, `2.1 s`, `1 min 05 s`, `2 h 03 min`, `5 d 02 h`.
 * With `whole` there are only whole seconds, for clocks that tick.
 * @param {number} ms
 * @param {boolean} [whole]
 */
export function duration(ms, whole = false) {
  if (!(ms > 0)) return whole ? "0 s" : "0 ms";
  if (!whole) {
    if (ms < 999.5) return `${Math.round(ms)} ms`;
    if (ms < 9950) return `${(ms / SECOND).toFixed(1)} s`;
  }
  const s = whole ? Math.floor(ms / SECOND) : Math.round(ms / SECOND);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  const min = Math.floor(s / 60);
  if (min < 1440) return `${Math.floor(min / 60)} h ${two(min % 60)} min`;
  return `${Math.floor(min / 1440)} d ${two(Math.floor(min / 60) % 24)} h`;
}

/**
 * A length of time as short as a mark on an axis has to be: `2 h`, `1.5 d`, `45 s`.
 * @param {number} ms
 */
export function brief(ms) {
  const [unit, name] = ms < SECOND ? [1, "ms"] : ms < MINUTE ? [SECOND, "s"] : ms < HOUR ? [MINUTE, "min"] : ms < DAY ? [HOUR, "h"] : [DAY, "d"];
  const number = ms / unit;
  return `${number < 10 ? Number(number.toFixed(1)) : Math.round(number)} ${name}`;
}

/**
 * A point in time as the reader's clock shows it, with the date if it is not today's.
 * @param {number} time
 * @param {number} now
 */
export function clock(time, now) {
  const date = new Date(time);
  const sameDay = new Date(now).toDateString() === date.toDateString();
  /** @type {Intl.DateTimeFormatOptions} */
  const options = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  return date.toLocaleString(undefined, sameDay ? options : { year: "numeric", month: "short", day: "numeric", ...options });
}

/**
 * Text from outside, safe to read: no character moves, hides or imitates others. With `lines`, line breaks and tabs stay.
 * @param {unknown} text
 * @param {number} [most] the most characters to keep
 * @param {boolean} [lines]
 */
export function readable(text, most = ROW_TEXT, lines = false) {
  let kept = typeof text === "string" ? text : String(text ?? "");
  const left = kept.length - most;
  if (left > 0) kept = kept.slice(0, most);
  kept = kept.replace(HIDDEN, (char) => {
    if (char === "\n" || char === "\t") return lines ? char : " ";
    if (char === "\r") return "";
    const code = char.charCodeAt(0);
    return code < 32 ? String.fromCharCode(0x2400 + code) : `‹${code.toString(16).toUpperCase()}›`;
  });
  return left > 0 ? `${kept}…${lines ? ` (${count(left, "character")} more)` : ""}` : kept;
}

/** Control characters, those that change the direction, and those without width, except joiners, which scripts and emoji need. */
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** Why such an answer counts for nothing. */
export const ANOTHER_PAGE = "the server sends another page, perhaps to log in";

/** Whether it is a redirect, of a request that does not follow one. @param {Response} answer */
export function isRedirect(answer) {
  return answer.type === "opaqueredirect";
}

/** Whether a page for people came in place of JSON or a stream. @param {Response} answer */
export function isPage(answer) {
  return answer.ok && /^text\/html\b/i.test(answer.headers.get("content-type") ?? "");
}

/**
 * @param {number} number
 * @param {string} noun
 * @param {string} [many]
 */
export function count(number, noun, many = `${noun}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? noun : many}`;
}

/** @param {number} number */
export function two(number) {
  return String(number).padStart(2, "0");
}

/**
 * A percentage without noise: `42 %`, `99.5 %`.
 * @param {number} number
 */
export function percentage(number) {
  return `${Number(number.toFixed(1))} %`;
}
