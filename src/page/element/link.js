// The way to the server: the token, the snapshot, the stream, and what to do when one of them fails.

import { EVENT_TYPES } from "./model.js";
import { ANOTHER_PAGE, isPage, isRedirect } from "./text.js";

/**
 * The states of the connection:
 * `idle` there is no `src` · `connecting` · `live` · `reconnecting` · `ended` the stream has ended ·
 * `expired` the permission has expired, and could not be renewed · `refused` not allowed · `unknown` there is no such
 * run.
 * @typedef {"idle" | "connecting" | "live" | "reconnecting" | "ended" | "expired" | "refused" | "unknown"} Connection
 *
 * @typedef {object} LinkOptions
 * @property {URL} src
 * @property {URL | null} snapshot
 * @property {URL | null} session
 * @property {boolean} withCredentials
 * @property {string | null} token
 * @property {string | null} lastId the id after which to go on, or `null` to begin with the snapshot
 *
 * @typedef {object} LinkHandlers
 * @property {(snapshot: any) => void} onSnapshot
 * @property {(estimate: any) => void} onEstimate
 * @property {(type: string, data: any, id: number | null, raw: string) => void} onEvent
 * @property {(connection: Connection, why: string) => void} onState
 * @property {() => Promise<string | null | undefined>} onRenew asks the embedding page for a new token
 * @property {(difference: number) => void} onClock how far this computer's clock may at most be ahead of the log's
 * @property {() => boolean} hasEnded whether the run is known to have ended
 */

const FIRST_DELAY_MS = 1000;
const LONGEST_DELAY_MS = 30_000;
/** An unknown run may be about to begin, but is not requested for ever. */
const UNKNOWN_TRIES = 6;
const REQUEST_TIMEOUT_MS = 15_000;
const ASK_AGAIN_MS = 2000;
const LOG_IN = `${ANOTHER_PAGE}: do that in another tab`;
/** When a run that has just begun is asked again what is expected of it: its index is told of it meanwhile. */
const ESTIMATE_MS = 3000;

export class Link {
  /** @param {LinkOptions} options @param {LinkHandlers} handlers */
  constructor(options, handlers) {
    this.options = options;
    this.handlers = handlers;
    /** @type {Connection} */ this.state = "connecting";
    /** The id after which to go on. @type {string | null} */ this.lastId = options.lastId;
    /** @type {EventSource | null} */ this.source = null;
    this.token = options.token;
    this.tries = 0;
    /** Goes up with each start: what an earlier one has asked for is not wanted any more. */ this.turn = 0;
    this.askedAt = -Infinity;
    /** Until when the server does not want to be asked. */ this.notBefore = 0;
    this.hasSnapshot = options.snapshot === null || options.lastId !== null;
    this.wasLive = false;
    this.closed = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */ this.timer = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */ this.estimateTimer = undefined;
    this.hurry = () => {
      if (this.timer !== undefined && !document.hidden) this.#soon(Math.max(0, this.notBefore - Date.now()));
    };
    addEventListener("online", this.hurry);
    document.addEventListener("visibilitychange", this.hurry);
  }

  /** Takes the next step: token, snapshot, stream. */
  async start() {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.closed) return;
    this.turn += 1;
    if (this.state !== "reconnecting") this.#say(this.wasLive ? "reconnecting" : "connecting", "");
    if (this.token !== null && this.options.session !== null) {
      if (!(await this.#exchange(this.token))) return;
    }
    if (!this.hasSnapshot && !(await this.#load())) return;
    this.#open();
  }

  /** Takes a new token, if there is one, and goes on where it was. @param {string | null} token */
  renew(token) {
    this.#drop();
    // One that could not be exchanged is tried again.
    this.token = token ?? this.token;
    this.tries = 0;
    return this.start();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    clearTimeout(this.estimateTimer);
    this.#drop();
    removeEventListener("online", this.hurry);
    document.removeEventListener("visibilitychange", this.hurry);
  }

  /** @param {string} token @returns {Promise<boolean>} whether to go on */
  async #exchange(token) {
    const answer = await this.#ask(/** @type {URL} */ (this.options.session), { method: "POST", body: token, headers: { "content-type": "text/plain" } });
    if (answer === null) return false;
    if (answer.ok) {
      // The cookie is the permission now.
      this.token = null;
      return true;
    }
    if (answer.status >= 500 || answer.status === 429) this.#later(`the server answered ${answer.status}`, answer);
    else {
      this.token = null;
      this.#refused();
    }
    return false;
  }

  /** @returns {Promise<boolean>} whether to go on */
  async #load() {
    const answer = await this.#ask(/** @type {URL} */ (this.options.snapshot), { headers: { accept: "application/json" } });
    if (answer === null) return false;
    const { status } = answer;
    const { turn } = this;
    if (answer.ok) {
      const sent = Date.parse(answer.headers.get("date") ?? "");
      try {
        const snapshot = await answer.json();
        if (this.#isOver(turn)) return false;
        // The header has whole seconds, so a difference below two seconds means nothing.
        if (!Number.isNaN(sent) && Math.abs(Date.now() - sent) > 2000) this.handlers.onClock(Date.now() - sent);
        this.handlers.onSnapshot(snapshot);
        this.lastId = snapshot.cursor == null ? null : String(snapshot.cursor);
        this.hasSnapshot = true;
        const age = Date.now() - (Date.parse(snapshot.started) || Date.now());
        if (snapshot.estimate == null && !this.handlers.hasEnded() && age < 2 * ESTIMATE_MS) {
          this.estimateTimer = setTimeout(() => this.#estimate(), ESTIMATE_MS);
        }
        return true;
      } catch {
        if (!this.#isOver(turn)) this.#later("the snapshot could not be read");
        return false;
      }
    }
    if (status === 401 || status === 403) this.#refused();
    else if (status === 404 || status === 410) this.#unknown();
    else if (status >= 500 || status === 429) this.#later(`the server answered ${status}`, answer);
    else {
      // There is no snapshot here: the stream has everything, too.
      this.hasSnapshot = true;
      return true;
    }
    return false;
  }

  /** A page without an estimate is as good: nothing is tried again. */
  async #estimate() {
    try {
      const answer = await fetch(/** @type {URL} */ (this.options.snapshot), {
        headers: { accept: "application/json" }, cache: "no-cache", credentials: this.#credentials, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
      });
      const { estimate } = await answer.json();
      if (!this.closed && estimate != null) this.handlers.onEstimate(estimate);
    } catch {
      // There is none.
    }
  }

  /** @returns {RequestCredentials} */
  get #credentials() {
    return this.options.withCredentials ? "include" : "same-origin";
  }

  #open() {
    this.#drop();
    const source = new EventSource(this.#url(), { withCredentials: this.options.withCredentials });
    this.source = source;
    source.onopen = () => {
      this.tries = 0;
      this.wasLive = true;
      this.#say("live", "");
    };
    source.onerror = () => {
      if (this.source !== source) return;
      if (source.readyState === EventSource.CLOSED) {
        if (this.handlers.hasEnded()) this.#finish();
        else this.#probe();
      }
      // After the end the browser asks once more, and gets `204`.
      else if (!this.handlers.hasEnded()) this.#say("reconnecting", "the connection was cut");
    };
    for (const type of EVENT_TYPES) {
      source.addEventListener(type, (event) => {
        if (this.source === source) this.#receive(type, event);
      });
    }
  }

  /** @param {string} type @param {MessageEvent} event */
  #receive(type, { data, lastEventId }) {
    if (type === "expired") {
      this.#expired();
      return;
    }
    let value = null;
    try {
      value = JSON.parse(data);
    } catch {
      // A foreign event: its position counts all the same.
    }
    const id = type === "reset" || lastEventId === "" ? null : Number(lastEventId);
    if (type === "reset") this.lastId = null;
    else if (lastEventId !== "") this.lastId = lastEventId;
    this.handlers.onEvent(type, value, Number.isFinite(id) ? id : null, data);
  }

  /** Asks the server why the browser has given up, since a page is not told. */
  async #probe() {
    this.#drop();
    const answer = await this.#ask(this.#url(), { method: "HEAD", headers: { accept: "text/event-stream" } });
    if (answer === null) return;
    const { status } = answer;
    if (status === 204) this.#finish();
    else if (status === 401 || status === 403) await this.#refused();
    else if (status === 404 || status === 410) this.#unknown();
    else this.#later(answer.ok ? "the connection was cut" : `the server answered ${status}`, answer);
  }

  #finish() {
    this.#drop();
    this.#say("ended", "");
  }

  async #expired() {
    this.#drop();
    this.#say("reconnecting", "the permission has run out, a new one is asked for");
    await this.#refused();
  }

  /** Asks the embedding page for a token, but not again and again. */
  async #refused() {
    const again = Date.now() - this.askedAt < ASK_AGAIN_MS;
    this.askedAt = Date.now();
    const token = again ? null : await this.handlers.onRenew();
    if (this.closed) return;
    if (token == null) this.#say(this.wasLive ? "expired" : "refused", "");
    else await this.renew(token === "" ? null : token);
  }

  #unknown() {
    if (this.tries >= UNKNOWN_TRIES) return this.#say("unknown", "");
    this.#later("", null, "unknown");
  }

  /**
   * Tries again after a delay that grows, has jitter, and is at least the server's `Retry-After`.
   * @param {string} why @param {Response | null} [answer] @param {Connection} [state]
   */
  #later(why, answer = null, state = "reconnecting") {
    if (this.closed) return;
    const longest = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.tries);
    const asked = Math.min(Number(answer?.headers.get("retry-after")) * 1000 || 0, 10 * LONGEST_DELAY_MS);
    const delay = Math.max(asked, longest * (0.5 + Math.random() / 2));
    this.notBefore = Date.now() + asked;
    this.tries += 1;
    this.#say(state, `${why}${why && "; "}next try in ${Math.max(1, Math.round(delay / 1000))} s`);
    this.#soon(delay);
  }

  /** @param {number} delay */
  #soon(delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.start(), delay);
  }

  /**
   * Sends a request, or reports why it failed and tries again later: also if a page comes back, which a browser that is
   * redirected to a login would take for success. Returns `null`, too, if another turn has begun meanwhile.
   * @param {URL | string} url @param {RequestInit} init @returns {Promise<Response | null>}
   */
  async #ask(url, init) {
    const { turn } = this;
    // Only the head has to come in time: a snapshot may be long, and the line slow.
    const control = new AbortController();
    const timer = setTimeout(() => control.abort(), REQUEST_TIMEOUT_MS);
    try {
      // What is posted is not taken to another place, and what a session answers may be anything.
      const posts = init.method === "POST";
      const redirect = posts ? "manual" : "follow";
      const answer = await fetch(url, { ...init, redirect, credentials: this.#credentials, cache: init.method === undefined ? "no-cache" : "no-store", signal: control.signal });
      if (this.#isOver(turn)) return null;
      if (!(posts ? isRedirect(answer) : isPage(answer))) return answer;
      this.#later(LOG_IN);
      return null;
    } catch {
      const isRedirected = !control.signal.aborted && (await this.#isRedirected(url));
      if (!this.#isOver(turn)) this.#later(isRedirected ? LOG_IN : "the server cannot be reached");
      return null;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Whether a request that failed was redirected: a login at another origin does not let this page read it. @param {URL | string} url */
  async #isRedirected(url) {
    try {
      return isRedirect(await fetch(url, { method: "HEAD", redirect: "manual", credentials: this.#credentials, cache: "no-store", signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) }));
    } catch {
      return false;
    }
  }

  /** Whether a later turn has begun. @param {number} turn */
  #isOver(turn) {
    return this.closed || turn !== this.turn;
  }

  #url() {
    const url = new URL(this.options.src);
    if (this.lastId !== null) {
      for (const position of ["from", "since"]) url.searchParams.delete(position);
      url.searchParams.set("lastEventId", this.lastId);
    }
    return url.href;
  }

  #drop() {
    this.source?.close();
    this.source = null;
  }

  /** @param {Connection} state @param {string} why */
  #say(state, why) {
    if (this.closed) return;
    this.state = state;
    this.handlers.onState(state, why);
  }
}
