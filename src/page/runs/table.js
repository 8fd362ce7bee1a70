// <workflow-runs>: a live table of runs. It reads the list at `list`, page by page, and follows what changes at `src`. Every run
// has a link to `run` and its id. See docs/runs.md.

import { LINK_WORDS, RUN_WORDS, draw, icon, make, say, set } from "../element/dom.js";
import { estimateOf } from "../element/estimate.js";
import { Pool } from "../element/pool.js";
import { ANOTHER_PAGE, clock, count, duration, isPage, percentage, readable } from "../element/text.js";
import { FILTERS, List, remainsOf } from "./list.js";

/** @typedef {import("./list.js").Entry} Entry */

const PAGE = 500;
/** The most runs that are read; older ones are left out, and the table says so. */
const MOST_RUNS = 20_000;
const DRAW_EVERY_MS = 100;
const FIRST_DELAY_MS = 1000;
const LONGEST_DELAY_MS = 30_000;
const ROW = 36;
/** The table is never higher than this many rows, so that a pool of rows fills it on any screen. */
const HIGHEST = 62;

const Base = typeof HTMLElement === "undefined" ? /** @type {any} */ (class {}) : HTMLElement;

const sheet = typeof document === "undefined" ? "" : new URL(`workflow-runs.css${new URL(import.meta.url).search}`, import.meta.url).href;

/**
 * `src` and `list` are addresses; `run` is the part of a page's address before the id (default `/`); `label` names
 * the table; `with-credentials` sends cookies to another origin.
 */
export class WorkflowRuns extends Base {
  static observedAttributes = ["src", "list"];

  #list = new List();
  /** @type {any} */ #ui = null;
  /** @type {Pool<Entry> | null} */ #pool = null;
  /** @type {EventSource | null} */ #source = null;
  /** @type {Entry | null} */ #active = null;
  #state = "idle";
  #why = "";
  #hasMore = false;
  /** Goes up with each start: what an earlier one has asked for is not wanted any more. */ #turn = 0;
  #tries = 0;
  #drawn = 0;
  #frame = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #retryTimer = undefined;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #drawTimer = undefined;
  /** @type {ReturnType<typeof setInterval> | undefined} */ #clockTimer = undefined;
  /** @type {AbortController | null} */ #listeners = null;
  /** @type {ResizeObserver | null} */ #resize = null;

  /** The runs as they are now, the latest first. Copies. */
  get runs() {
    this.#list.rows();
    return this.#list.all.map(({ id, state, percent, task, error, tags, number }) => ({ id, state, percent, task, error, tags: [...tags], run: number }));
  }

  get connection() {
    return this.#state;
  }

  connectedCallback() {
    if (this.#ui === null) this.#build();
    this.#listeners = new AbortController();
    const { signal } = this.#listeners;
    document.addEventListener("visibilitychange", () => this.#schedule(), { signal });
    addEventListener("online", () => this.#state === "reconnecting" && this.#start(), { signal });
    this.#resize?.observe(this.#ui.scroller);
    this.#clockTimer = setInterval(() => this.#schedule(), 1000);
    this.#start();
  }

  disconnectedCallback() {
    this.#turn += 1;
    this.#source?.close();
    this.#source = null;
    this.#listeners?.abort();
    this.#resize?.disconnect();
    clearInterval(this.#clockTimer);
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#drawTimer);
    this.#drawTimer = undefined;
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
  }

  attributeChangedCallback(/** @type {string} */ _name, /** @type {string | null} */ before, /** @type {string | null} */ after) {
    if (before === after || !this.isConnected || this.#ui === null) return;
    this.#list.clear();
    this.#start();
  }

  // ------------------------------------------------------------- the server

  /** Reads the list, then follows the changes. */
  async #start() {
    this.#turn += 1;
    const turn = this.#turn;
    clearTimeout(this.#retryTimer);
    this.#source?.close();
    this.#source = null;
    const list = this.#url("list");
    if (list === null) return this.#say("idle", "");
    this.#say(this.#state === "idle" ? "connecting" : "reconnecting", "");
    /** @type {string | null} */ let cursor = null;
    /** @type {string | null} */ let next = null;
    /** @type {Set<string>} */ const seen = new Set();
    do {
      const url = new URL(list);
      url.searchParams.set("limit", String(PAGE));
      if (next !== null) url.searchParams.set("cursor", next);
      const page = await this.#ask(url, turn);
      if (page === null) return;
      // The position of the first page: changes since then come again.
      if (next === null) {
        cursor = page.cursor == null ? null : String(page.cursor);
        this.#list.typical = estimateOf(page.typical);
      }
      for (const run of Array.isArray(page.runs) ? page.runs : []) {
        this.#list.put(run);
        if (typeof run?.id === "string") seen.add(run.id);
      }
      next = typeof page.next === "string" ? page.next : null;
      this.#schedule();
    } while (next !== null && seen.size < MOST_RUNS);
    this.#hasMore = next !== null;
    for (const id of [...this.#list.byId.keys()]) if (!seen.has(id)) this.#list.remove(id);
    this.#follow(cursor, turn);
  }

  /** @param {URL} url @param {number} turn @returns {Promise<any>} null where it is not to go on */
  async #ask(url, turn) {
    try {
      const credentials = this.hasAttribute("with-credentials") ? "include" : "same-origin";
      const answer = await fetch(url, { headers: { accept: "application/json" }, credentials, signal: AbortSignal.timeout(15_000) });
      if (turn !== this.#turn) return null;
      if (answer.status === 401 || answer.status === 403) {
        this.#say("refused", "");
        return null;
      }
      if (isPage(answer)) throw new Error(ANOTHER_PAGE);
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      const page = await answer.json();
      if (turn !== this.#turn) return null;
      if (page === null || typeof page !== "object") throw new Error("the list could not be read");
      return page;
    } catch (error) {
      if (turn === this.#turn) this.#later(error instanceof Error ? error.message : "");
      return null;
    }
  }

  /** @param {string | null} cursor @param {number} turn */
  #follow(cursor, turn) {
    const src = this.#url("src");
    if (src === null) return this.#say("ended", "");
    if (cursor !== null) src.searchParams.set("lastEventId", cursor);
    const source = new EventSource(src, { withCredentials: this.hasAttribute("with-credentials") });
    this.#source = source;
    const isOver = () => turn !== this.#turn;
    source.onopen = () => {
      if (isOver()) return;
      this.#tries = 0;
      this.#say("live", "");
    };
    source.onerror = () => {
      if (isOver()) return;
      if (source.readyState === EventSource.CLOSED) this.#later("the connection was refused");
      else this.#say("reconnecting", "the connection was cut");
    };
    /** @param {string} type @param {(data: any) => void} take */
    const on = (type, take) =>
      source.addEventListener(type, (event) => {
        if (isOver()) return;
        try {
          take(JSON.parse(/** @type {MessageEvent} */ (event).data));
        } catch {
          // Anything but JSON is not ours.
        }
        this.#schedule();
      });
    on("run", (data) => this.#list.put(data));
    on("removed", (data) => this.#list.remove(data?.id));
    on("reset", () => this.#start());
    on("expired", () => {
      source.close();
      this.#say("expired", "");
    });
  }

  /** @param {string} why */
  #later(why) {
    this.#source?.close();
    this.#source = null;
    this.#say("reconnecting", why);
    const delay = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.#tries) * (0.75 + Math.random() / 2);
    this.#tries += 1;
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#start(), delay);
  }

  /** @param {string} state @param {string} why */
  #say(state, why) {
    this.#state = state;
    this.#why = why;
    set(this, "data-connection", state);
    this.#schedule();
  }

  /** @param {string} name */
  #url(name) {
    const value = this.getAttribute(name);
    return value === null || value === "" ? null : new URL(value, document.baseURI);
  }

  // ------------------------------------------------------------ what is seen

  #build() {
    const root = this.attachShadow({ mode: "open" });
    /** @type {any} */ const ui = {};
    this.#ui = ui;
    const name = this.getAttribute("label") ?? "Runs";
    ui.linkWord = make("span");
    ui.link = make("span", { class: "link" }, make("span", { class: "dot" }), ui.linkWord);
    ui.search = make("input", { type: "search", class: "filter", placeholder: "Search", "aria-label": `Search ${name}`, autocomplete: "off", spellcheck: "false" });
    ui.filters = FILTERS.map(([word]) => make("button", { type: "button", "aria-pressed": word === "all" }));
    ui.tools = make("div", { class: "tools", role: "group", "aria-label": "States" }, ...ui.filters);
    ui.matches = make("span", { class: "matches", role: "status" });
    ui.columns = make("div", { class: "columns", role: "row", "aria-rowindex": 1 }, ...["State", "Run", "Step", "Progress", "Duration", "What remains"].map((text) => make("div", { class: "cell", role: "columnheader", text })));
    ui.space = make("div", { class: "space", role: "rowgroup" });
    ui.scroller = make("div", { class: "scroller" }, ui.space);
    ui.grid = make("div", { class: "grid", role: "grid", "aria-label": name, tabindex: 0 }, make("div", { role: "rowgroup" }, ui.columns), ui.scroller);
    ui.empty = make("p", { class: "empty" });
    ui.page = make("div", { class: "page runs" }, make("div", { class: "head" }, make("div", { class: "title" }, ui.search, ui.tools, ui.matches, ui.link)), ui.grid, ui.empty);
    ui.page.style.setProperty("--row", `${ROW}px`);
    ui.scroller.style.maxHeight = `${ROW * HIGHEST}px`;
    root.append(make("link", { rel: "stylesheet", href: sheet }), ui.page);
    this.#pool = new Pool(ui.scroller, ui.space, () => this.#row(), (row, entry, index) => this.#paint(row, entry, index));
    this.#pool.height = ROW;
    this.#resize = new ResizeObserver(() => this.#schedule(true));

    ui.scroller.addEventListener("scroll", () => this.#schedule(true), { passive: true });
    const filter = () => {
      const pressed = ui.filters.findIndex((/** @type {Element} */ each) => each.getAttribute("aria-pressed") === "true");
      this.#list.filter(ui.search.value, FILTERS[Math.max(0, pressed)][1]);
      ui.scroller.scrollTop = 0;
      this.#schedule(true);
    };
    ui.search.addEventListener("input", filter);
    ui.filters.forEach((/** @type {any} */ button) => {
      button.addEventListener("click", () => {
        for (const each of ui.filters) set(each, "aria-pressed", String(each === button));
        filter();
      });
    });
    ui.grid.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
    ui.grid.addEventListener("focus", () => this.#schedule(true));
  }

  #row() {
    /** @type {any} */ const row = {};
    row.icon = icon("queued");
    row.word = make("span");
    row.link = make("a", { class: "run-link", dir: "auto", tabindex: -1 });
    row.tags = make("span", { class: "tags", dir: "auto" });
    row.task = make("div", { class: "cell", role: "gridcell", dir: "auto" });
    row.fill = make("span", { class: "meter-fill" });
    row.percent = make("span");
    row.meter = make("span", { class: "meter" }, row.fill);
    row.time = make("div", { class: "cell time", role: "gridcell" });
    row.rest = make("div", { class: "cell rest", role: "gridcell" });
    const state = make("div", { class: "cell state", role: "gridcell" }, row.icon, row.word);
    const of = make("div", { class: "cell of-run", role: "rowheader" }, row.link, row.tags);
    const progress = make("div", { class: "cell progress", role: "gridcell" }, row.meter, row.percent);
    row.element = make("div", { class: "row", role: "row", id: `r${(counter += 1)}` }, state, of, row.task, progress, row.time, row.rest);
    row.element.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      this.#active = row.item;
      // A click on the link is the browser's own.
      if (!(event.target instanceof Element && event.target.closest("a"))) this.#schedule(true);
    });
    return row;
  }

  /** @param {any} row @param {Entry} entry @param {number} index */
  #paint(row, entry, index) {
    const now = Date.now();
    set(row.element, "aria-rowindex", index + 2);
    set(row.element, "aria-selected", String(entry === this.#active));
    const took = entry.started === null ? null : (entry.ended ?? now) - entry.started;
    say(row.time, took === null ? "" : duration(Math.max(0, took), entry.ended === null));
    say(row.rest, remainsOf(entry, this.#list.typical, now));
    if (row.of === entry && row.version === entry.version) return;
    row.of = entry;
    row.version = entry.version;
    set(row.element, "data-look", entry.state);
    set(row.element, "data-run", entry.id);
    draw(row.icon, entry.state);
    say(row.word, RUN_WORDS[entry.state] ?? readable(entry.state, 20));
    say(row.link, readable(entry.id, 120));
    set(row.link, "href", `${this.getAttribute("run") ?? "/"}${encodeURIComponent(wellFormed(entry.id))}`);
    set(row.link, "title", entry.started === null ? null : `began ${clock(entry.started, now)}`);
    say(row.tags, [entry.number > 1 ? `run ${entry.number}` : "", ...entry.tags.map((tag) => readable(tag, 64))].filter(Boolean).join(" · "));
    say(row.task, readable(entry.error ?? entry.task ?? ""));
    set(row.task, "data-error", entry.error !== null);
    const percent = entry.state === "completed" ? null : entry.percent;
    row.meter.hidden = percent === null;
    say(row.percent, percent === null ? "" : percentage(percent));
    row.fill.style.width = `${percent ?? 0}%`;
  }

  /** @param {boolean} [now] */
  #schedule(now = false) {
    if (this.#ui === null || document.hidden || this.#frame !== 0) return;
    const wait = this.#drawn + DRAW_EVERY_MS - performance.now();
    const soon = () => {
      this.#drawTimer = undefined;
      if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.#draw());
    };
    if (now || wait <= 0) soon();
    else this.#drawTimer ??= setTimeout(soon, wait);
  }

  #draw() {
    this.#frame = 0;
    clearTimeout(this.#drawTimer);
    this.#drawTimer = undefined;
    this.#drawn = performance.now();
    const ui = this.#ui;
    const list = this.#list;
    const rows = list.rows();
    const at = (/** @type {Entry} */ entry) => list.places.get(entry) ?? -1;
    if (this.#active !== null && at(this.#active) < 0) this.#active = null;
    this.#pool?.draw(rows, at, this.#active);
    set(ui.grid, "aria-rowcount", rows.length + 1);
    const shown = this.#active === null ? null : this.#pool?.shown.get(this.#active);
    set(ui.grid, "aria-activedescendant", shown?.element.id ?? null);
    const counts = list.counts();
    FILTERS.forEach(([word], index) => say(ui.filters[index], `${word === "all" ? "All" : RUN_WORDS[word]} ${counts[index].toLocaleString("en")}`));
    say(ui.matches, list.text === "" ? "" : count(rows.length, "match", "matches"));
    set(ui.page, "data-link", this.#state);
    say(ui.linkWord, LINK_WORDS[this.#state] ?? this.#state);
    set(ui.link, "title", this.#why || null);
    const words = list.all.length > 0 ? "No run matches." : this.#withoutRuns();
    say(ui.empty, rows.length > 0 ? (this.#hasMore ? `Older runs than the latest ${list.all.length.toLocaleString("en")} are left out.` : "") : words);
    ui.empty.hidden = ui.empty.textContent === "";
  }

  #withoutRuns() {
    if (this.#state === "refused") return "You may not see the runs.";
    if (this.#state === "connecting" || this.#state === "reconnecting") return this.#why === "" ? "The runs are being read." : `The runs could not be read: ${this.#why}.`;
    return "There are no runs.";
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const rows = this.#list.rows();
    if (rows.length === 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    const { scroller } = this.#ui;
    const page = Math.max(1, Math.floor(scroller.clientHeight / ROW) - 1);
    const from = this.#active === null ? -1 : (this.#list.places.get(this.#active) ?? -1);
    /** @type {Record<string, number>} */
    const to = { ArrowDown: from + 1, ArrowUp: from - 1, Home: 0, End: rows.length - 1, PageDown: from + page, PageUp: from - page };
    if (event.key === "Enter" && this.#active !== null) {
      event.preventDefault();
      this.#pool?.shown.get(this.#active)?.link.click();
    } else if (event.key in to) {
      event.preventDefault();
      const index = Math.min(rows.length - 1, Math.max(0, to[event.key]));
      this.#active = rows[index];
      const top = index * ROW;
      if (top < scroller.scrollTop) scroller.scrollTop = top;
      else if (top + ROW > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + ROW - scroller.clientHeight;
      this.#schedule(true);
    }
  }
}

let counter = 0;

/** Half a surrogate pair cannot be in an address. @param {string} id */
function wellFormed(id) {
  return id.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
}

if (typeof customElements !== "undefined" && !customElements.get("workflow-runs")) customElements.define("workflow-runs", WorkflowRuns);
