// <workflow-run>: the element itself. State first: events change the model at once, also in a hidden tab. The visible
// part is drawn from the model, at most once a frame and only while it is visible.

import { Axis, foldsOf, lookOf } from "./axis.js";
import { LINK_WORDS, RUN_WORDS, draw, icon, make, say, set } from "./dom.js";
import { leftOf } from "./estimate.js";
import { Link } from "./link.js";
import { Run, isGroup, preorder, taskView } from "./model.js";
import { Panel, sendAnswer } from "./panel.js";
import { Pool } from "./pool.js";
import { Rows } from "./rows.js";
import { clock, count, duration, readable } from "./text.js";
import { eventRow, paintAxis, paintEvent, paintTask, taskRow } from "./timeline.js";

/** @typedef {import("./model.js").Task} Task */

/** The least time between two drawings for events; scrolling and keys do not wait. */
const DRAW_EVERY_MS = 60;
const CLOCK_MS = 1000;
/** The least time between two announcements to a screen reader. */
const TELL_EVERY_MS = 1500;
/** How long the connection may be away before it is announced. */
const BRIEF_MS = 2000;
/** Below this width, in rem, the bar is under the name. */
const NARROW_REM = 46;
/** The most events that are kept in full. */
const MOST_EVENTS = 100_000;
/** The list is never higher than this many rows, so that a pool of rows fills it on any screen. */
const HIGHEST_ROWS = 62;

const Base = typeof HTMLElement === "undefined" ? /** @type {any} */ (class {}) : HTMLElement;
const styles = typeof document === "undefined" ? "" : new URL(`workflow-run.css${new URL(import.meta.url).search}`, import.meta.url).href;

/**
 * A run, live. See docs/page.md for its attributes, events and custom properties.
 *
 * @fires run-state - `{ state, phase, connection, error }`, whenever one of them changes
 * @fires task - `{ type, task }`, after each event about a task
 * @fires renew - when the permission has expired: call `detail.respondWith(token)`
 */
export class WorkflowRun extends Base {
  static observedAttributes = ["src", "snapshot", "session", "with-credentials"];

  #run = new Run();
  #rows = new Rows();
  /** @type {Link | null} */ #link = null;
  /** @type {string} */ #connection = "idle";
  #why = "";
  /** Since when it is so. */ #since = 0;
  /** How far this computer's clock is ahead of the log's; below zero if it is behind. */ #ahead = 0;
  /** @type {{ id: number | null, type: string, data: string }[]} */ #events = [];
  #loadedEarlier = false;

  /** @type {any} */ #ui = null;
  /** @type {Task | null} */ #active = null;
  /** @type {Task | null} */ #selected = null;
  /** @type {any} */ #activeEvent = null;
  #shows = "timeline";
  #follows = true;
  #expectedTop = 0;
  #unfolded = false;
  #isCollapsed = false;
  /** @type {string | null} */ #wanted = null;
  #epoch = 0;
  #stated = "";

  #frame = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #drawTimer = undefined;
  #drawn = 0;
  /** @type {ReturnType<typeof setInterval> | undefined} */ #clockTimer = undefined;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #tellTimer = undefined;
  #told = 0;
  /** @type {string[]} */ #failures = [];
  #toldPhase = "";
  /** @type {AbortController | null} */ #listeners = null;
  #restarting = false;

  // ---------------------------------------------------------------- for pages

  /** The run as it is now, in the form of the snapshot. A copy. */
  get view() {
    return this.#run.view;
  }

  /** @returns {import("./link.js").Connection} */
  get connection() {
    return /** @type {any} */ (this.#connection);
  }

  /**
   * Goes on with a new token, which is exchanged at `session` for a cookie; without one it just tries again.
   * @param {string} [token]
   */
  renew(token) {
    if (this.#link === null) this.#start();
    else this.#link.renew(token ?? null);
  }

  /**
   * Opens the groups around a task, scrolls to it and shows its details. Returns whether there is such a task.
   * @param {string} id
   */
  showTask(id) {
    const task = this.#run.byId.get(id);
    if (task === undefined || this.#ui === null) return false;
    this.#show("timeline");
    for (let at = task.parent; at !== null; at = at.parent) at.collapsed = false;
    if (this.#rows.isFiltered) this.#setFilter("", false);
    this.#rows.stale = true;
    this.#follows = false;
    this.#active = task;
    this.#open(task);
    this.#draw();
    this.#scrollTo(task.row, "center");
    return true;
  }

  // ------------------------------------------------------------ the element

  connectedCallback() {
    if (this.#ui === null) this.#build();
    this.#listen();
    this.#start();
  }

  disconnectedCallback() {
    this.#stop();
    this.#listeners?.abort();
    this.#listeners = null;
    this.#ui.resize.disconnect();
    clearTimeout(this.#tellTimer);
    this.#tellTimer = undefined;
  }

  attributeChangedCallback(/** @type {string} */ _name, /** @type {string | null} */ before, /** @type {string | null} */ after) {
    if (before === after || !this.isConnected || this.#ui === null || this.#restarting) return;
    // Once, however many attributes are set together.
    this.#restarting = true;
    queueMicrotask(() => {
      this.#restarting = false;
      if (!this.isConnected) return;
      this.#stop();
      this.#reset();
      this.#start();
    });
  }

  /** Leaves nothing of the run: what comes is another one. */
  #reset() {
    this.#run = new Run();
    this.#epoch = 0;
    this.#close();
    this.#forget();
    this.#events = [];
    this.#activeEvent = null;
    this.#ui.events.clear();
    this.#loadedEarlier = false;
    this.#isCollapsed = false;
    this.#wanted = null;
    this.#ahead = 0;
    this.#failures = [];
    this.#toldPhase = "";
  }

  #start() {
    const src = this.#url("src");
    if (src === null) {
      this.#linked("idle", "");
      return;
    }
    // An element that was only moved goes on where it was.
    const { cursor } = this.#run;
    const lastId = cursor === null ? null : String(cursor);
    this.#clockTimer ??= setInterval(() => this.#schedule(), CLOCK_MS);
    this.#link = new Link(
      { src, snapshot: this.#url("snapshot"), session: this.#url("session"), withCredentials: this.hasAttribute("with-credentials"), token: this.#takeHash(), lastId },
      {
        onSnapshot: (snapshot) => {
          this.#run.load(snapshot);
          this.#changed(null);
        },
        onEstimate: (estimate) => {
          this.#run.estimate = estimate;
          this.#schedule();
        },
        onEvent: (type, data, id, raw) => this.#received(type, data, id, raw),
        onState: (connection, why) => this.#linked(connection, why),
        onRenew: () => this.#askForToken(),
        onClock: (difference) => (this.#ahead = difference),
        hasEnded: () => this.#run.hasEnded,
      },
    );
    this.#link.start();
  }

  #stop() {
    this.#link?.close();
    this.#link = null;
    clearInterval(this.#clockTimer);
    this.#clockTimer = undefined;
    clearTimeout(this.#drawTimer);
    this.#drawTimer = undefined;
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
  }

  /** @param {string} name */
  #url(name) {
    const value = this.getAttribute(name);
    return value === null || value === "" ? null : new URL(value, document.baseURI);
  }

  /** Reads the fragment: removes the token from it, so that it stays in no history, and remembers the task. */
  #takeHash() {
    const hash = new URLSearchParams(location.hash.slice(1));
    if (this.hasAttribute("deep-link") && hash.has("task")) this.#wanted = hash.get("task");
    if (!this.hasAttribute("session") || !hash.has("t")) return null;
    const token = hash.get("t");
    hash.delete("t");
    this.#replaceHash(hash);
    return token;
  }

  /** @param {URLSearchParams} hash */
  #replaceHash(hash) {
    const text = hash.toString();
    history.replaceState(history.state, "", `${location.pathname}${location.search}${text && `#${text}`}`);
  }

  /** @returns {Promise<string | null | undefined>} */
  async #askForToken() {
    /** @type {any} */
    let response;
    const detail = { respondWith: (/** @type {any} */ token) => (response = token) };
    this.dispatchEvent(new CustomEvent("renew", { detail, bubbles: true, composed: true }));
    try {
      return await response;
    } catch {
      return null;
    }
  }

  // ------------------------------------------------------------- what arrives

  /** @param {string} type @param {any} data @param {number | null} id @param {string} raw */
  #received(type, data, id, raw) {
    const { cursor } = this.#run;
    // A server that does not know where this page was sends all again.
    if (id !== null && cursor !== null && id <= cursor) return;
    const task = this.#run.apply(type, data, id);
    this.#events.push({ id, type, data: raw });
    // Trimmed now and then, not with each event.
    if (this.#events.length > MOST_EVENTS * 1.1) this.#events = this.#events.slice(-MOST_EVENTS);
    this.#compareClocks(data);
    if (task !== undefined) {
      if (task !== null) {
        this.#rows.changed(task);
        if (type === "failed") this.#failures.push(`${task.step} failed: ${task.error ?? ""}`);
        this.dispatchEvent(new CustomEvent("task", { detail: { type, get task() { return taskView(task); } } }));
      }
      this.#changed(task);
    } else {
      this.#schedule();
    }
  }

  /** An event is never younger than 0 s, so its apparent age bounds how far this computer's clock is ahead. @param {any} data */
  #compareClocks(data) {
    const time = Date.parse(data?.timestamp);
    if (Number.isNaN(time)) return;
    const age = Date.now() - time;
    if (age < this.#ahead) this.#ahead = age;
  }

  /** @param {Task | null} task `null` if all of the run may have changed */
  #changed(task) {
    if (task === null) {
      this.#forget();
      this.#stateChanged();
    }
    this.#schedule();
  }

  /** Drops references to tasks that no longer exist. */
  #forget() {
    if (this.#epoch === this.#run.epoch) return;
    this.#epoch = this.#run.epoch;
    this.#rows.clear();
    this.#ui.tasks.clear();
    this.#active = null;
    if (this.#selected !== null) this.#close();
    this.#follows = true;
  }

  /** @param {string} connection @param {string} why */
  #linked(connection, why) {
    if (connection !== this.#connection) this.#since = performance.now();
    this.#connection = connection;
    this.#why = why;
    this.#stateChanged();
    this.#schedule();
  }

  #stateChanged() {
    const { state, phase, error } = this.#run;
    const now = `${state} ${phase} ${this.#connection}`;
    if (now === this.#stated) return;
    this.#stated = now;
    this.setAttribute("data-state", state);
    this.setAttribute("data-connection", this.#connection);
    this.#showTitle();
    this.dispatchEvent(new CustomEvent("run-state", { detail: { state, phase, connection: this.#connection, error }, bubbles: true, composed: true }));
  }

  get #now() {
    return Date.now() - this.#ahead;
  }

  // ------------------------------------------------------------------ drawing

  #schedule() {
    if (this.#frame !== 0 || this.#drawTimer !== undefined || this.#ui === null) return;
    if (document.hidden) {
      this.#stateChanged();
      this.#tell();
      this.#showTitle();
      return;
    }
    const wait = this.#drawn + DRAW_EVERY_MS - performance.now();
    if (wait <= 0) this.#soon();
    else {
      this.#drawTimer = setTimeout(() => {
        this.#drawTimer = undefined;
        this.#soon();
      }, wait);
    }
  }

  #soon() {
    if (this.#frame !== 0) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #draw() {
    if (!this.isConnected) return;
    this.#drawn = performance.now();
    this.#stateChanged();
    if (this.#wanted !== null && this.#run.byId.has(this.#wanted)) {
      const wanted = this.#wanted;
      this.#wanted = null;
      this.showTask(wanted);
      return;
    }
    if (this.#shows === "timeline") this.#drawTimeline();
    else this.#drawEvents();
    this.#drawHead();
    const run = this.#run;
    this.#ui.panel.paint(this.#now, { slowest: run.slowest, length: run.to !== null && run.from !== null ? run.to - run.from : 0, estimate: run.estimate, canAnswer: this.#canAnswer });
    this.#tell();
    this.#showTitle();
    if (run.hasEnded && this.#connection === "ended") {
      clearInterval(this.#clockTimer);
      this.#clockTimer = undefined;
    }
  }

  get #canAnswer() {
    return this.hasAttribute("answer") && !["expired", "refused"].includes(this.#connection);
  }

  #drawHead() {
    const ui = this.#ui;
    const run = this.#run;
    const now = this.#now;
    const { phase } = run;
    // The browser asks once more after the end; nothing is wrong.
    const link = this.#connection === "reconnecting" && run.hasEnded ? "ended" : this.#connection;
    const isKnown = run.from !== null || link === "live";
    if (ui.state.hidden === isKnown) ui.state.hidden = !isKnown;
    set(ui.state, "data-look", phase);
    draw(ui.stateIcon, phase);
    say(ui.stateWord, RUN_WORDS[phase] ?? readable(phase, 40));
    say(ui.name, readable(run.id ?? this.getAttribute("label") ?? run.workflow ?? "Run", 200));
    const of = [run.id === null && this.getAttribute("label") === null ? null : run.workflow, run.number > 1 && `run ${run.number}`];
    say(ui.of, readable(of.filter(Boolean).join(" · ")));
    const { from, to } = run;
    say(ui.elapsed, from === null ? "" : to === null ? duration(now - from, true) : duration(to - from));
    set(ui.elapsed, "title", from === null ? null : `Began ${clock(from, now)}${to === null ? "" : `, ended ${clock(to, now)}`}`);

    say(ui.left, phase === "running" ? leftOf(run.estimate?.run, from, now) : "");

    set(ui.link, "data-link", link);
    say(ui.linkWord, LINK_WORDS[link]);

    say(ui.facts, this.#factsLine());
    this.#drawBanners(link, now);

    say(ui.errorsCount, run.errors > 0 ? run.errors.toLocaleString("en") : "");
    const hasGroups = run.tasks.length > run.roots.length;
    if (ui.collapse.hidden === hasGroups) ui.collapse.hidden = !hasGroups;
    say(ui.collapse, this.#isCollapsed ? "Expand all" : "Collapse all");
    const isTimeline = this.#shows === "timeline" && run.tasks.length > 0;
    if (ui.filterTools.hidden === isTimeline) ui.filterTools.hidden = !isTimeline;
    say(ui.matches, this.#rows.isFiltered && !this.#rows.stale ? count(this.#rows.matches, "match", "matches") : "");
  }

  #factsLine() {
    const { tasks, counts, slowest } = this.#run;
    if (tasks.length === 0) return "";
    const parts = [count(tasks.length, "task")];
    const words = { running: "open", completed: "done", failed: "failed", stopped: "stopped" };
    for (const [state, word] of Object.entries(words)) {
      const number = counts[/** @type {keyof typeof counts} */ (state)];
      if (number > 0) parts.push(`${number.toLocaleString("en")} ${word}`);
    }
    if (slowest !== null && tasks.length > 1) parts.push(`slowest: ${readable(slowest.step, 60)}, ${duration(/** @type {number} */ (slowest.ended) - /** @type {number} */ (slowest.started))}`);
    if (this.#run.hasCriticalPath) parts.push("critical path underlined");
    return parts.join(" · ");
  }

  /** @param {string} link @param {number} now */
  #drawBanners(link, now) {
    const ui = this.#ui;
    const run = this.#run;
    const failure = run.state === "failed" ? (run.error ?? "The run failed.") : run.state === "terminated" ? (run.error ?? "The run was terminated from outside.") : "";
    banner(ui.failure, failure && readable(failure, 4000, true));

    const lost = run.lost === null ? "" : "Older events are no longer kept: this view begins in the middle.";
    // A cut that is over in a moment is not shown.
    const isBrief = link === "reconnecting" && performance.now() - this.#since < BRIEF_MS;
    const why = link === "ended" || link === "live" || isBrief ? "" : this.#why;
    const notices = [isBrief ? "" : NOTICES[link], why && `${why[0].toUpperCase()}${why.slice(1)}.`, lost];
    banner(ui.notice, notices.filter(Boolean).join(" "));
    const again = ["expired", "refused", "unknown"].includes(link) || why !== "";
    if (ui.again.hidden === again) ui.again.hidden = !again;

    let waiting = null;
    if (this.#canAnswer && run.waits > 0) for (const task of run.open) if (task.kind === "waitForEvent") waiting = task;
    ui.waitTask = waiting;
    const more = run.waits > 1 ? ` (and ${run.waits - 1} more)` : "";
    const left = waiting?.until != null && waiting.until > now ? `, ${duration(waiting.until - now, true)} left` : "";
    const what = waiting?.eventType == null ? "an event" : `“${readable(waiting.eventType, 80)}”`;
    banner(ui.wait, waiting === null ? "" : `${readable(waiting.step, 80)}: waits for ${what}${left}${more}`);
  }

  #drawTimeline() {
    const ui = this.#ui;
    const run = this.#run;
    const rows = this.#rows.of(run.roots);
    const now = this.#now;
    const isEmpty = rows.length === 0;
    if (ui.empty.hidden === isEmpty) {
      ui.empty.hidden = !isEmpty;
      ui.grid.hidden = ui.back.hidden = isEmpty;
      ui.resized = true;
    }
    if (isEmpty) say(ui.emptyText, this.#emptyText());
    this.#measure();

    const start = run.from ?? now;
    // Tasks may say that they ended a moment after the run.
    const last = Math.max(run.to ?? now, run.activity.last ?? 0);
    const folds = foldsOf(start, last, run.activity.until(run.to ?? now));
    const axis = new Axis(start, last, this.#unfolded ? [] : folds, ui.lineWidth);
    if (ui.idle.hidden !== (folds.length === 0)) ui.idle.hidden = folds.length === 0;
    set(ui.idle, "aria-pressed", String(this.#unfolded));
    paintAxis(ui.axisHead, ui.back, axis);

    set(ui.grid, "aria-rowcount", rows.length + 1);
    if (this.#follows && !run.hasEnded) this.#follow(rows.length);
    const focused = this.#focused();
    this.#keepActive(rows, focused);
    ui.look = {
      axis, now, estimate: run.estimate, selected: this.#selected, active: this.#active, filtered: this.#rows.isFiltered, canAnswer: this.#canAnswer, roots: run.roots.length,
      slowest: run.tasks.length > 1 ? run.slowest : null,
    };
    ui.tasks.draw(rows, (/** @type {Task} */ task) => (rows[task.row] === task ? task.row : -1), focused);
    const offersNow = !this.#follows && !run.hasEnded && rows.length * ui.tasks.height > ui.scroller.clientHeight;
    if (ui.jump.hidden === offersNow) ui.jump.hidden = !offersNow;
  }

  /** Keeps one row that Tab leads to. It is visible, unless it has the focus. @param {Task[]} rows @param {Task | null} focused */
  #keepActive(rows, focused) {
    const { scroller, tasks } = this.#ui;
    const top = scroller.scrollTop / tasks.height;
    const row = this.#active?.row ?? -1;
    if (rows[row] === this.#active && (this.#active === focused || (row >= top && row < top + scroller.clientHeight / tasks.height - 1))) return;
    this.#active = rows[Math.min(rows.length - 1, Math.ceil(top))] ?? null;
  }

  #emptyText() {
    if (this.#rows.isFiltered) return "No task matches the filter.";
    if (["refused", "expired", "unknown"].includes(this.#connection)) return "";
    if (this.#connection === "idle") return "Set the attribute src to a stream of events.";
    if (this.#connection === "live" || this.#run.hasEnded) return this.#run.hasEnded ? "The run had no steps." : "No step has begun yet. The first one appears here by itself.";
    return "Connecting…";
  }

  #drawEvents() {
    const ui = this.#ui;
    this.#measure();
    const events = this.#events;
    set(ui.eventGrid, "aria-rowcount", events.length);
    if (ui.eventsEmpty.hidden !== events.length > 0) ui.eventsEmpty.hidden = events.length > 0;
    const first = events.find(({ id }) => id !== null)?.id ?? this.#run.cursor;
    const offers = !this.#loadedEarlier && this.#run.cursor !== null && (first === null || first > 1 || events.length === 0);
    if (ui.earlier.hidden === offers) ui.earlier.hidden = !offers;
    this.#activeEvent ??= events[0] ?? null;
    ui.look = { active: this.#activeEvent, selected: ui.panel.event };
    ui.events.draw(events, (/** @type {any} */ event) => this.#eventIndex(event), null);
  }

  /** The index of an event: the ids have no gaps in most logs, so the search begins at the expected place. @param {any} event */
  #eventIndex(event) {
    const events = this.#events;
    const guess = event.index;
    if (events[guess] === event) return guess;
    return (event.index = events.indexOf(event));
  }

  /** The task whose row has the focus. */
  #focused() {
    const row = this.shadowRoot?.activeElement?.closest(".row");
    return row ? (this.#ui.rowTasks.get(row)?.item ?? null) : null;
  }

  /** Measures everything that depends on the size, once for each change of it. */
  #measure() {
    const ui = this.#ui;
    if (!ui.resized) return;
    ui.resized = false;
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize) || 16;
    const narrow = ui.page.clientWidth < NARROW_REM * rem;
    set(ui.page, "data-narrow", narrow);
    ui.tasks.height = Math.round((narrow ? 3.25 : 1.875) * rem);
    ui.events.height = Math.round(1.75 * rem);
    ui.page.style.setProperty("--row", `${ui.tasks.height}px`);
    ui.page.style.setProperty("--event-row", `${ui.events.height}px`);
    ui.scroller.style.maxHeight = `${HIGHEST_ROWS * ui.tasks.height}px`;
    ui.eventScroller.style.maxHeight = `${HIGHEST_ROWS * ui.events.height}px`;
    // The head of the columns and the background end where the rows do: before the scroll bar.
    const bar = ui.scroller.offsetWidth - ui.scroller.clientWidth;
    ui.columns.style.paddingRight = `${bar}px`;
    ui.lineWidth = ui.axisHead.clientWidth;
    const left = ui.axisHead.getBoundingClientRect().left - ui.grid.getBoundingClientRect().left;
    ui.back.style.left = `${left}px`;
    ui.back.style.width = `${ui.lineWidth}px`;
  }

  // ----------------------------------------------------------------- scrolling

  /** @param {number} rows */
  #follow(rows) {
    const { tasks, scroller, space } = this.#ui;
    let newest = this.#run.newest;
    while (newest !== undefined && newest.row < 0 && newest.parent !== null) newest = newest.parent;
    const row = newest === undefined || newest.row < 0 ? rows - 1 : newest.row;
    const height = scroller.clientHeight;
    space.style.height = `${rows * tasks.height}px`;
    tasks.total = rows * tasks.height;
    const top = scroller.scrollTop;
    const y = row * tasks.height;
    if (y < top || y + 2 * tasks.height > top + height) {
      scroller.scrollTop = y + 2 * tasks.height - height;
    }
    this.#expectedTop = scroller.scrollTop;
  }

  #scrolled() {
    const { scroller, tasks } = this.#ui;
    if (this.#follows && Math.abs(scroller.scrollTop - this.#expectedTop) > tasks.height / 2) {
      // The end of the list may have moved up by itself.
      const end = scroller.scrollHeight - scroller.clientHeight;
      if (scroller.scrollTop < end - 1) this.#follows = false;
    }
    this.#soon();
  }

  /** @param {number} index @param {"nearest" | "center"} where */
  #scrollTo(index, where = "nearest") {
    const timeline = this.#shows === "timeline";
    const { scroller, pool } = timeline ? { scroller: this.#ui.scroller, pool: this.#ui.tasks } : { scroller: this.#ui.eventScroller, pool: this.#ui.events };
    const y = index * pool.height;
    const height = scroller.clientHeight;
    const top = scroller.scrollTop;
    if (where === "center") scroller.scrollTop = y - height / 2;
    else if (y < top) scroller.scrollTop = y;
    else if (y + pool.height > top + height) scroller.scrollTop = y + pool.height - height;
    this.#expectedTop = scroller.scrollTop;
  }

  #jump() {
    this.#follows = true;
    this.#draw();
  }

  // ------------------------------------------------------------ what is chosen

  /** @param {Task} task @param {boolean} [answers] */
  #open(task, answers = false) {
    const { panel } = this.#ui;
    this.#selected = task;
    this.#active = task;
    panel.open(task);
    this.#ui.resized = true;
    if (this.hasAttribute("deep-link")) {
      const hash = new URLSearchParams(location.hash.slice(1));
      hash.set("task", task.id);
      this.#replaceHash(hash);
    }
    this.#draw();
    // The details may have taken the row's place.
    if (task.row >= 0) this.#scrollTo(task.row);
    if (answers) (panel.type.value === "" ? panel.type : panel.payload).focus();
  }

  /** @param {boolean} [refocus] */
  #close(refocus = false) {
    const task = this.#selected;
    this.#selected = null;
    this.#ui.panel.close();
    this.#ui.resized = true;
    if (this.hasAttribute("deep-link")) {
      const hash = new URLSearchParams(location.hash.slice(1));
      // Another task is one that is still to come.
      if (task !== null && hash.get("task") === task.id) {
        hash.delete("task");
        this.#replaceHash(hash);
      }
    }
    this.#soon();
    if (refocus && this.#shows === "timeline" && task !== null) this.#focus(task.row);
    else if (refocus) this.#focus(this.#eventIndex(this.#activeEvent));
  }

  /** Gives the focus to a row, wherever it is. @param {number} index */
  #focus(index) {
    const timeline = this.#shows === "timeline";
    const items = timeline ? this.#rows.of(this.#run.roots) : this.#events;
    const item = items[Math.max(0, Math.min(items.length - 1, index))];
    if (item === undefined) return;
    if (timeline) this.#active = /** @type {Task} */ (item);
    else this.#activeEvent = item;
    this.#scrollTo(items.indexOf(/** @type {any} */ (item)));
    this.#draw();
    const pool = timeline ? this.#ui.tasks : this.#ui.events;
    pool.shown.get(item)?.element.focus({ preventScroll: true });
  }

  /** @param {Task} task @param {boolean} collapsed */
  #collapse(task, collapsed) {
    task.collapsed = collapsed;
    this.#rows.stale = true;
    this.#follows = this.#follows && !collapsed;
    this.#draw();
  }

  /** @param {boolean} collapsed */
  #collapseAll(collapsed) {
    this.#isCollapsed = collapsed;
    for (const task of preorder(this.#run.roots)) task.collapsed = collapsed && task.children.length > 0;
    this.#rows.stale = true;
    this.#draw();
  }

  /** @param {string} text @param {boolean} errorsOnly */
  #setFilter(text, errorsOnly) {
    const { filter, errors } = this.#ui;
    if (filter.value !== text) filter.value = text;
    set(errors, "aria-pressed", String(errorsOnly));
    this.#rows.filter(text, errorsOnly);
    this.#soon();
  }

  /** @param {string} what `timeline` or `events` */
  #show(what) {
    if (this.#shows === what) return;
    const ui = this.#ui;
    this.#shows = what;
    this.#close();
    set(ui.page, "data-shows", what);
    ui.timelineView.hidden = what !== "timeline";
    ui.eventsView.hidden = what !== "events";
    set(ui.timelineTab, "aria-pressed", String(what === "timeline"));
    set(ui.eventsTab, "aria-pressed", String(what === "events"));
    (what === "timeline" ? ui.events : ui.tasks).remove();
    ui.resized = true;
    this.#draw();
  }

  /** Reads the events before the snapshot, for the list of events. */
  #loadEarlier() {
    const src = this.#url("src");
    if (src === null || this.#loadedEarlier) return;
    this.#loadedEarlier = true;
    this.#schedule();
    const run = this.#run;
    const first = this.#events.find(({ id }) => id !== null)?.id ?? Infinity;
    const end = Math.min(first - 1, run.cursor ?? 0);
    for (const position of ["lastEventId", "last_event_id", "since"]) src.searchParams.delete(position);
    src.searchParams.set("from", "beginning");
    const source = new EventSource(src, { withCredentials: this.hasAttribute("with-credentials") });
    /** @type {any[]} */
    const earlier = [];
    const done = (/** @type {boolean} */ isWhole) => {
      source.close();
      if (run !== this.#run) return;
      if (isWhole) this.#events = [...earlier, ...this.#events].slice(-MOST_EVENTS);
      // The button is there again.
      else this.#loadedEarlier = false;
      this.#schedule();
    };
    // After a cut it goes on where it was, by itself.
    source.onerror = () => source.readyState === EventSource.CLOSED && done(false);
    for (const type of ["started", "attempt_failed", "progress", "completed", "failed", "restarted"]) {
      source.addEventListener(type, ({ data, lastEventId }) => {
        const id = Number(lastEventId);
        if (id <= end && id > (earlier.at(-1)?.id ?? 0)) earlier.push({ id, type, data });
        if (id >= end && source.readyState !== EventSource.CLOSED) done(true);
      });
    }
  }

  // -------------------------------------------------------------------- saying

  /** Announces the run's phase and failed steps to a screen reader: nothing else, and not too often. */
  #tell() {
    if (this.#tellTimer !== undefined || (this.#failures.length === 0 && this.#spoken === this.#toldPhase)) return;
    this.#tellTimer = setTimeout(
      () => {
        this.#tellTimer = undefined;
        this.#told = performance.now();
        const failures = this.#failures.splice(0);
        const words = failures.length > 1 ? [`${failures.length} steps failed.`] : failures.map((text) => `${readable(text, 200)}.`);
        const state = this.#spoken;
        if (state !== this.#toldPhase) words.push(`${state}.`);
        this.#toldPhase = state;
        say(this.#ui.status, words.join(" "));
      },
      Math.max(0, this.#told + TELL_EVERY_MS - performance.now()),
    );
  }

  /** The state of the run in a word, or that it may not be seen; the last announcement while nothing is known. */
  get #spoken() {
    const { phase, from } = this.#run;
    if (["expired", "refused", "unknown"].includes(this.#connection)) return LINK_WORDS[this.#connection];
    return from === null ? this.#toldPhase : (RUN_WORDS[phase] ?? phase);
  }

  #showTitle() {
    if (!this.hasAttribute("titled")) return;
    const { phase, id, workflow } = this.#run;
    const name = id ?? this.getAttribute("label") ?? workflow ?? "Run";
    const title = `${RUN_WORDS[phase] ?? phase}: ${readable(name, 100)}`;
    if (document.title !== title) document.title = title;
  }

  // ------------------------------------------------------------------ building

  #build() {
    const root = this.attachShadow({ mode: "open" });
    const level = Number(this.getAttribute("heading")) || 2;
    const panel = new Panel(
      level + 1,
      () => this.#close(true),
      (type, payload) => sendAnswer(/** @type {URL} */ (this.#url("answer")), type, payload, this.hasAttribute("with-credentials")),
    );
    const button = (/** @type {string} */ text, attributes = {}) => make("button", { type: "button", text, ...attributes });
    /** @type {any} */
    const ui = { panel, resized: true, lineWidth: 600, rowTasks: new WeakMap() };
    this.#ui = ui;

    ui.stateIcon = icon("queued");
    ui.stateWord = make("span");
    ui.state = make("span", { class: "pill", part: "state" }, ui.stateIcon, ui.stateWord);
    ui.name = make("div", { class: "run-name", role: "heading", "aria-level": level, dir: "auto" });
    ui.of = make("span", { class: "of", dir: "auto" });
    ui.elapsed = make("span", { class: "elapsed" });
    ui.left = make("span", { class: "left" });
    ui.linkWord = make("span");
    ui.link = make("span", { class: "link", part: "connection" }, make("span", { class: "dot" }), ui.linkWord);
    ui.facts = make("p", { class: "facts" });
    ui.status = make("div", { class: "unseen", role: "status" });

    ui.failure = make("div", { class: "banner", "data-look": "failed", hidden: true }, icon("failed"), make("p", { dir: "auto", tabindex: "0" }));
    ui.again = button("Try again", { hidden: true });
    ui.notice = make("div", { class: "banner", "data-look": "notice", hidden: true }, make("p"), ui.again);
    ui.waitAnswer = button("Answer…", { class: "primary" });
    ui.wait = make("div", { class: "banner", "data-look": "waiting", hidden: true }, icon("waiting"), make("p", { dir: "auto" }), ui.waitAnswer);

    ui.filter = make("input", { type: "search", class: "filter", placeholder: "Filter tasks", "aria-label": "Filter tasks", autocomplete: "off", spellcheck: "false" });
    ui.errorsCount = make("span", { class: "number" });
    ui.errors = make("button", { type: "button", "aria-pressed": "false" }, new Text("Errors only"), ui.errorsCount);
    ui.matches = make("span", { class: "matches" });
    ui.collapse = button("Collapse all", { hidden: true });
    ui.idle = button("Show idle time", { "aria-pressed": "false", hidden: true });
    ui.filterTools = make("div", { class: "tools" }, ui.filter, ui.errors, ui.matches, ui.collapse, ui.idle);
    ui.timelineTab = button("Timeline", { "aria-pressed": "true" });
    ui.eventsTab = button("Events", { "aria-pressed": "false" });
    const tabs = make("div", { class: "tabs", role: "group", "aria-label": "View" }, ui.timelineTab, ui.eventsTab);

    ui.axisHead = make("div", { class: "axis-head" });
    const header = (/** @type {string} */ name, /** @type {string} */ text, ...children) => make("div", { class: `cell ${name}`, role: "columnheader" }, new Text(text), ...children);
    ui.columns = make(
      "div",
      { class: "columns", role: "row", "aria-rowindex": "1" },
      header("name", "Task"),
      header("status", "Status"),
      header("time", "Time"),
      make("div", { class: "cell line", role: "columnheader", "aria-label": "Timeline" }, ui.axisHead),
    );
    ui.space = make("div", { class: "space" });
    ui.scroller = make("div", { class: "scroller", role: "rowgroup" }, ui.space);
    ui.back = make("div", { class: "back", "aria-hidden": "true", hidden: true });
    ui.emptyText = make("p");
    ui.empty = make("div", { class: "empty" }, ui.emptyText);
    ui.grid = make("div", { class: "grid", role: "treegrid", "aria-label": "Tasks", "aria-colcount": "4", part: "grid", hidden: true }, make("div", { role: "rowgroup", class: "columns-group" }, ui.columns), ui.scroller);
    ui.jump = make("button", { class: "jump", type: "button", hidden: true }, icon("down"), new Text("Jump to now"));
    ui.timelineView = make("div", { class: "view" }, ui.back, ui.grid, ui.empty, ui.jump);

    ui.earlier = button("Load the events before", { hidden: true });
    ui.eventSpace = make("div", { class: "space" });
    ui.eventScroller = make("div", { class: "scroller", role: "rowgroup" }, ui.eventSpace);
    ui.eventsEmpty = make("div", { class: "empty" }, make("p", { text: "No event has arrived on this page yet." }));
    ui.eventGrid = make("div", { class: "grid", role: "grid", "aria-label": "Events", "aria-colcount": "3" }, ui.eventScroller);
    ui.eventsView = make("div", { class: "view", hidden: true }, make("div", { class: "events-tools" }, ui.earlier), ui.eventGrid, ui.eventsEmpty);

    ui.page = make(
      "div",
      { class: "page", "data-shows": "timeline", hidden: true },
      make(
        "div",
        { class: "head", part: "head" },
        make("div", { class: "title" }, ui.state, make("div", { class: "names" }, ui.name, ui.of), ui.elapsed, ui.left, ui.link),
        ui.facts,
        ui.failure,
        ui.wait,
        ui.notice,
        make("div", { class: "bar-of-tools" }, ui.filterTools, tabs),
      ),
      make("div", { class: "body" }, ui.timelineView, ui.eventsView, panel.element),
      ui.status,
    );

    const link = make("link", { rel: "stylesheet", href: styles });
    // Nothing is shown before the stylesheet is loaded; a missing one must not hide the run.
    const ready = () => {
      ui.page.hidden = false;
      ui.resized = true;
      this.#schedule();
    };
    link.addEventListener("load", ready);
    link.addEventListener("error", ready);
    root.append(link, ui.page);

    ui.tasks = new Pool(ui.scroller, ui.space, () => this.#makeRow(), (row, task, index) => paintTask(row, task, index, ui.look));
    ui.events = new Pool(ui.eventScroller, ui.eventSpace, () => this.#makeEventRow(), (row, event, index) => {
      event.index = index;
      paintEvent(row, event, index, ui.look);
    });
    ui.resize = new ResizeObserver(() => {
      ui.resized = true;
      this.#soon();
    });
    this.#wire();
  }

  #makeRow() {
    const row = taskRow();
    this.#ui.rowTasks.set(row.element, row);
    row.element.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      const task = row.item;
      if (task === null) return;
      this.#follows = false;
      const target = /** @type {Element} */ (event.target);
      if (target.closest(".twisty") && task.children.length > 0) {
        this.#active = task;
        this.#collapse(task, !task.collapsed);
      } else if (target.closest(".answer")) {
        this.#open(task, true);
      } else if (task === this.#selected) {
        this.#close(true);
      } else {
        this.#open(task);
        row.element.focus({ preventScroll: true });
      }
    });
    return row;
  }

  #makeEventRow() {
    const row = eventRow();
    row.element.addEventListener("click", () => {
      if (row.item !== null) this.#openEvent(row.item);
    });
    return row;
  }

  /** @param {any} event */
  #openEvent(event) {
    this.#activeEvent = event;
    this.#ui.panel.openEvent(event);
    this.#ui.resized = true;
    this.#draw();
  }

  /** Adds the listeners that live as long as the element. */
  #wire() {
    const ui = this.#ui;
    ui.filter.addEventListener("input", () => this.#setFilter(ui.filter.value, this.#rows.errorsOnly));
    ui.errors.addEventListener("click", () => this.#setFilter(ui.filter.value, !this.#rows.errorsOnly));
    ui.collapse.addEventListener("click", () => this.#collapseAll(!this.#isCollapsed));
    ui.idle.addEventListener("click", () => {
      this.#unfolded = !this.#unfolded;
      this.#draw();
    });
    ui.timelineTab.addEventListener("click", () => this.#show("timeline"));
    ui.eventsTab.addEventListener("click", () => this.#show("events"));
    ui.jump.addEventListener("click", () => this.#jump());
    ui.again.addEventListener("click", () => this.renew());
    ui.earlier.addEventListener("click", () => this.#loadEarlier());
    ui.waitAnswer.addEventListener("click", () => {
      if (ui.waitTask === null) return;
      this.showTask(ui.waitTask.id);
      this.#open(ui.waitTask, true);
    });
    ui.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    ui.eventScroller.addEventListener("scroll", () => this.#soon(), { passive: true });
    for (const type of ["wheel", "touchmove"]) {
      ui.scroller.addEventListener(type, () => this.#letGo(), { passive: true });
    }
    ui.grid.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
    ui.eventGrid.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
    ui.panel.element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") this.#close(true);
    });
  }

  #letGo() {
    if (!this.#follows) return;
    const { scroller } = this.#ui;
    if (scroller.scrollHeight <= scroller.clientHeight + 1) return;
    this.#follows = false;
    this.#soon();
  }

  /** Adds the listeners that live while the element is in a document. */
  #listen() {
    this.#listeners = new AbortController();
    const { signal } = this.#listeners;
    this.#ui.resize.observe(this);
    this.#ui.resize.observe(this.#ui.scroller);
    document.addEventListener("visibilitychange", () => !document.hidden && this.#soon(), { signal });
    addEventListener(
      "hashchange",
      () => {
        const token = this.#takeHash();
        if (token !== null) this.renew(token);
        else this.#soon();
      },
      { signal },
    );
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const row = /** @type {Element} */ (event.target).closest(".row");
    if (row === null) return;
    const timeline = this.#shows === "timeline";
    const onButton = /** @type {Element} */ (event.target).closest("button") !== null;
    const index = timeline ? (this.#active?.row ?? 0) : this.#eventIndex(this.#activeEvent);
    const page = Math.max(1, Math.floor(this.#ui[timeline ? "scroller" : "eventScroller"].clientHeight / this.#ui[timeline ? "tasks" : "events"].height) - 1);
    /** @type {Record<string, () => number | void>} */
    const moves = {
      ArrowDown: () => index + 1,
      ArrowUp: () => index - 1,
      PageDown: () => index + page,
      PageUp: () => index - page,
      Home: () => 0,
      End: () => Infinity,
      Enter: () => this.#enter(),
      " ": () => this.#enter(),
      Escape: () => this.#close(true),
    };
    if (timeline) {
      moves.ArrowRight = () => this.#inward();
      moves.ArrowLeft = () => this.#outward();
      moves["*"] = () => this.#collapseAll(false);
      moves["/"] = () => this.#ui.filter.focus();
    }
    const move = moves[event.key];
    if (move === undefined || (onButton && (event.key === "Enter" || event.key === " "))) return;
    event.preventDefault();
    this.#follows = false;
    const to = move();
    if (typeof to !== "number") return;
    this.#focus(to);
    if (!this.#ui.panel.element.hidden) {
      if (timeline && this.#active !== null) this.#open(this.#active);
      else if (!timeline) this.#openEvent(this.#activeEvent);
    }
  }

  #enter() {
    if (this.#shows === "events") this.#openEvent(this.#activeEvent);
    else if (this.#active !== null && this.#active === this.#selected) this.#close(true);
    else if (this.#active !== null) this.#open(this.#active, this.#canAnswer && lookOf(this.#active) === "waiting");
  }

  /** Right: opens a group, or goes to its first task. */
  #inward() {
    const task = this.#active;
    if (task === null || task.children.length === 0) return undefined;
    if (!task.collapsed || this.#rows.isFiltered) return task.row + 1;
    this.#collapse(task, false);
    return task.row;
  }

  /** Left: closes a group, or goes to the parent group. */
  #outward() {
    const task = this.#active;
    if (task === null) return undefined;
    if (isGroup(task) && task.children.length > 0 && !task.collapsed && !this.#rows.isFiltered) {
      this.#collapse(task, true);
      return task.row;
    }
    return task.parent?.row;
  }
}

/** @type {Record<string, string>} */
const NOTICES = {
  expired: "The permission to watch this run has run out. Open a new link to go on.",
  refused: "You may not watch this run: the link is wrong, or it is too old.",
  unknown: "There is no such run, or not yet.",
  reconnecting: "Reconnecting.",
};

/** @param {HTMLElement} node @param {string} text */
function banner(node, text) {
  say(node.querySelector("p"), text);
  if (node.hidden !== (text === "")) node.hidden = text === "";
}

if (typeof customElements !== "undefined" && !customElements.get("workflow-run")) customElements.define("workflow-run", WorkflowRun);
