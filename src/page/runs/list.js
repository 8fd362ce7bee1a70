// The runs of a list: kept in their order, filtered, and what remains of one. Pure.

import { remains } from "../element/estimate.js";

/**
 * @typedef {object} Entry a run, as `GET /runs` and the event `run` have it
 * @property {string} id
 * @property {string} state
 * @property {string[]} tags
 * @property {string | null} task
 * @property {string | null} error
 * @property {number | null} percent
 * @property {number | null} started
 * @property {number | null} ended
 * @property {number} number
 * @property {number} version goes up whenever it changes
 * @property {string} words what is searched
 */

/** The states of each button, in the order of the buttons. @type {[string, string[]][]} */
export const FILTERS = [
  ["all", []],
  ["running", ["queued", "running", "rollingBack", "waitingForPause"]],
  ["waiting", ["waiting", "paused"]],
  ["completed", ["completed"]],
  ["failed", ["failed", "terminated"]],
];

export class List {
  constructor() {
    /** @type {Map<string, Entry>} */ this.byId = new Map();
    /** All runs, the latest first. @type {Entry[]} */ this.all = [];
    /** The shown entries. @type {Entry[]} */ this.shown = [];
    /** Where each of those is. @type {Map<Entry, number>} */ this.places = new Map();
    /** How long runs took. @type {import("../element/estimate.js").Estimate | null} */ this.typical = null;
    this.text = "";
    this.states = FILTERS[0][1];
    this.isSorted = true;
    this.isStale = false;
  }

  clear() {
    this.byId.clear();
    this.all = [];
    this.isStale = true;
  }

  /** Adds or updates a run. Anything else is ignored. @param {any} data */
  put(data) {
    if (data === null || typeof data !== "object" || typeof data.id !== "string" || typeof data.state !== "string") return;
    let entry = this.byId.get(data.id);
    const started = time(data.started);
    if (entry === undefined) {
      entry = /** @type {Entry} */ ({ id: data.id, version: 0, started });
      this.byId.set(data.id, entry);
      this.all.push(entry);
      this.isSorted = false;
    } else if (entry.started !== started) {
      this.isSorted = false;
    }
    entry.version += 1;
    entry.state = data.state;
    entry.tags = Array.isArray(data.tags) ? data.tags.filter((/** @type {any} */ tag) => typeof tag === "string") : [];
    entry.task = text(data.task);
    entry.error = text(data.error);
    entry.percent = Number.isFinite(data.percent) ? Math.min(100, Math.max(0, data.percent)) : null;
    entry.started = started;
    entry.ended = time(data.ended);
    entry.number = Number.isInteger(data.run) ? data.run : 1;
    entry.words = [entry.id, entry.task, entry.error, ...entry.tags].join("\n").toLowerCase();
    this.isStale = true;
  }

  /** @param {unknown} id */
  remove(id) {
    const entry = this.byId.get(String(id));
    if (entry === undefined) return;
    this.byId.delete(entry.id);
    this.all.splice(this.all.indexOf(entry), 1);
    this.isStale = true;
  }

  /** @param {string} text @param {string[]} states none for all */
  filter(text, states) {
    this.text = text.trim().toLowerCase();
    this.states = states;
    this.isStale = true;
  }

  /** The runs that are shown, up to date. */
  rows() {
    if (!this.isSorted) {
      this.all.sort((a, b) => (b.started ?? Infinity) - (a.started ?? Infinity) || (a.id < b.id ? 1 : -1));
      this.isSorted = true;
      this.isStale = true;
    }
    if (this.isStale) {
      this.isStale = false;
      const { text, states } = this;
      this.shown = this.all.filter(({ state, words }) => (states.length === 0 || states.includes(state)) && (text === "" || words.includes(text)));
      this.places = new Map(this.shown.map((entry, index) => [entry, index]));
    }
    return this.shown;
  }

  /** How many runs each of the filters would show. */
  counts() {
    return FILTERS.map(([, states]) => (states.length === 0 ? this.all.length : this.all.reduce((sum, { state }) => sum + (states.includes(state) ? 1 : 0), 0)));
  }
}

/**
 * What remains of a run by what earlier ones took; empty where there is too little to say, or all it does is to wait.
 * @param {Entry} entry @param {import("../element/estimate.js").Estimate | null} typical @param {number} now
 */
export function remainsOf(entry, typical, now) {
  if (typical === null || entry.started === null || !FILTERS[1][1].includes(entry.state)) return "";
  return remains(typical, Math.max(0, now - entry.started));
}

/** @param {unknown} value */
function time(value) {
  const at = typeof value === "string" ? Date.parse(value) : NaN;
  return Number.isNaN(at) ? null : at;
}

/** @param {unknown} value */
function text(value) {
  return typeof value === "string" && value !== "" ? value : null;
}
