// Follows a run from its URL to its end, across lost connections: as typed events, or as the run's state.
//
//   for await (const event of watch("/o-1/sse")) console.log(event.type, event.data);
//   const stop = follow("/o-1/sse", (run) => show(run.state, run.tasks));
//
// A module without dependencies and without a build step, for browsers, Node 20 and newer, Deno and Bun. Its types
// are in watch.d.ts.

/** The types of the events of a run. */
export const EVENT_TYPES = Object.freeze(["started", "attempt_failed", "progress", "completed", "failed", "restarted", "reset", "expired"]);

const FIRST_DELAY_MS = 1000;
const LONGEST_DELAY_MS = 30_000;
/** The longest delay that a server can ask for. */
const LONGEST_ASKED_MS = 300_000;
/** How long a stream may stay open after the event that ends a run. */
const AFTER_THE_END_MS = 5000;
const ANSWER_WITHIN_MS = 30_000;
const SNAPSHOT_WITHIN_MS = 120_000;
/** A permission that runs out sooner is not renewed at once. */
const RENEW_AGAIN_MS = 2000;
/** The most characters of one event. Servers of ssetarget send 1 MiB at most. */
const MAX_EVENT = 4 << 20;
/** A snapshot has no more levels of tasks. */
const MAX_DEPTH = 32;
/** The error with which the log ends a run that was terminated from outside. */
const TERMINATED = "the instance was terminated";
/** Statuses that are worth another try. */
const PASSING = [408, 425, 429];
/** Statuses of servers without a snapshot. Whether there is such a run at all, its stream tells. */
const NO_SNAPSHOT = [400, 404, 405, 406, 410, 415, 501, 507];

/** The reason why following a run stopped before its end. */
export class WatchError extends Error {
  constructor(kind, message, status, options) {
    super(message, options);
    this.name = "WatchError";
    this.kind = kind;
    this.status = status;
  }
}

/** Yields the events of a run, each once and in order, until the run ends. */
export async function* watch(url, options = {}) {
  for await (const events of batches(new Link(url, options))) yield* events;
}

/** Yields the state of a run whenever it has changed, until the run ends. */
export async function* watchView(url, options = {}) {
  const link = new Link(url, options);
  let view = runView();
  if (link.lastEventId === "") {
    const snapshot = typeof options.snapshot === "object" && !(options.snapshot instanceof URL) ? options.snapshot : await loadSnapshot(link);
    if (snapshot) {
      view = runView(snapshot);
      if (snapshot.cursor !== undefined) link.lastEventId = String(snapshot.cursor);
      yield view;
    }
  }
  for await (const events of batches(link)) {
    const before = view;
    for (const event of events) view = fold(view, event);
    if (view !== before) yield view;
  }
}

/**
 * Calls `onView` with the state of a run whenever it has changed, until the run ends. Returns a function that stops it.
 */
export function follow(url, onView, options = {}) {
  const control = new AbortController();
  const stop = () => control.abort();
  const { signal, onEnd = () => {}, onError = rethrow } = options;
  if (signal?.aborted) stop();
  else signal?.addEventListener("abort", stop, { once: true });
  (async () => {
    try {
      for await (const view of watchView(url, { ...options, signal: control.signal })) {
        if (control.signal.aborted) return;
        onView(view);
      }
      if (!control.signal.aborted) onEnd();
    } catch (error) {
      if (!control.signal.aborted) onError(error);
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  })();
  return stop;
}

/** An error without a listener is thrown as an uncaught one, so that it is not lost. */
function rethrow(error) {
  queueMicrotask(() => {
    throw error;
  });
}

// ------------------------------------------------------------------ the state of a run

/** Returns the state to begin with: a snapshot, or the state of an unknown run. */
export function runView(snapshot) {
  return snapshot ?? { id: "", run: 1, state: "queued", taskCount: 0, tasks: [] };
}

/**
 * Returns the state after an event. Parts that the event does not change are the same objects as before, and nothing
 * is changed in place.
 */
export function fold(view, { type, data, id = null }) {
  const number = id !== null && /^\d+$/.test(id) ? Number(id) : undefined;
  if (number !== undefined && view.cursor !== undefined && number <= view.cursor) return view;
  if (type === "reset") {
    const { id: name, workflow, run } = view;
    return compact({ ...runView(), id: name, workflow, run });
  }
  const moved = number === undefined ? view : { ...view, cursor: number };
  if (moved !== view) hand(view, moved);
  if (!isRecord(data)) return moved;
  if (type === "restarted") {
    const { id: name, workflow } = view;
    return compact({ ...runView(), id: name, workflow, run: Number.isInteger(data.run) ? data.run : view.run + 1, cursor: moved.cursor });
  }
  if (typeof data.taskId !== "string" || typeof data.timestamp !== "string" || !STEP_EVENTS.has(type)) return moved;
  return data.kind === "workflow" ? foldWorkflow(moved, type, data) : foldTask(moved, type, data);
}

const STEP_EVENTS = new Set(["started", "attempt_failed", "progress", "completed", "failed"]);

function foldWorkflow(view, type, { step, timestamp, error }) {
  let next;
  if (type === "started") {
    next = { ...view, workflow: view.workflow ?? step, state: "running", started: view.started ?? timestamp };
  } else if (type === "completed" || type === "failed") {
    const state = type === "failed" && error === TERMINATED ? "terminated" : type;
    next = compact({ ...view, state, error: type === "failed" ? error : undefined, ended: timestamp, tasks: stopAll(view.tasks, timestamp) });
  } else {
    return view;
  }
  return hand(view, next);
}

/** Stops the open tasks. A view is never deeper than a snapshot. */
function stopAll(tasks, ended) {
  let isChanged = false;
  const stopped = tasks.map((task) => {
    const inner = task.tasks && stopAll(task.tasks, ended);
    if (task.state !== "running" && inner === task.tasks) return task;
    isChanged = true;
    const changed = { ...task };
    if (inner) changed.tasks = inner;
    if (task.state === "running") {
      delete changed.retryAt;
      Object.assign(changed, { state: "stopped", ended });
    }
    return changed;
  });
  return isChanged ? stopped : tasks;
}

function foldTask(view, type, data) {
  let index = indexOf(view);
  let path = index.get(data.taskId);
  // Two states may have been derived from the same one. Only the newest has the index.
  if (path !== undefined && at(view, path)?.taskId !== data.taskId) {
    index = indexed(view);
    path = index.get(data.taskId);
  }
  if (path === undefined) {
    // Tasks that were filtered out of the log are not in the view.
    return type === "started" ? addTask(view, index, data) : view;
  }
  const next = { ...view };
  let tasks = (next.tasks = [...view.tasks]);
  path.forEach((position, depth) => {
    const task = { ...tasks[position] };
    tasks[position] = task;
    if (depth < path.length - 1) tasks = task.tasks = [...task.tasks];
    else changeTask(task, type, data);
  });
  return hand(view, next, index);
}

function addTask(view, index, data) {
  const { taskId, step, kind, count, parentId, timestamp: started, until, eventType, attempt } = data;
  const isInner = typeof parentId === "string" && !parentId.endsWith(".workflow");
  let under = (isInner && parentId !== taskId && index.get(parentId)) || [];
  if (under.length > 0 && at(view, under)?.taskId !== parentId) {
    index = indexed(view);
    under = index.get(parentId) ?? [];
  }
  // Deeper tasks are put on the last level.
  if (under.length >= MAX_DEPTH) under = under.slice(0, MAX_DEPTH - 1);
  const task = compact({ taskId, step, kind, count, parentId: isInner ? parentId : null, state: "running", started, until, eventType, attempt });
  const next = { ...view, taskCount: view.taskCount + 1 };
  let tasks = (next.tasks = [...view.tasks]);
  for (const position of under) {
    const parent = { ...tasks[position] };
    tasks[position] = parent;
    tasks = parent.tasks = [...(parent.tasks ?? [])];
  }
  index.set(taskId, [...under, tasks.length]);
  tasks.push(task);
  return hand(view, next, index);
}

function changeTask(task, type, { attempt, error, timestamp, retryAt, percent, message, attributes }) {
  if (attempt !== undefined) task.attempt = attempt;
  switch (type) {
    case "attempt_failed":
      task.failedAttempts = [...(task.failedAttempts ?? []), { attempt: attempt ?? 0, error: error ?? "", ended: timestamp }];
      if (retryAt === undefined) delete task.retryAt;
      else task.retryAt = retryAt;
      break;
    case "progress":
      // A report shows that the code runs.
      delete task.retryAt;
      if (percent !== undefined) task.percent = percent;
      if (message !== undefined) task.message = message;
      if (attributes !== undefined) task.attributes = attributes;
      break;
    case "completed":
    case "failed":
      if (type === "completed" && attributes !== undefined) task.attributes = attributes;
      if (type === "failed" && error !== undefined) task.error = error;
      delete task.retryAt;
      Object.assign(task, { state: type, ended: timestamp });
      break;
    default:
  }
}

/** The places of tasks in a view, so that the cost of an event does not depend on the number of tasks. */
const INDEXES = new WeakMap();

function indexOf(view) {
  return INDEXES.get(view) ?? indexed(view);
}

function indexed(view) {
  const index = new Map();
  const left = view.tasks.map((task, position) => [task, [position]]);
  for (let entry; (entry = left.pop()); ) {
    const [task, path] = entry;
    index.set(task.taskId, path);
    task.tasks?.forEach((inner, position) => left.push([inner, [...path, position]]));
  }
  INDEXES.set(view, index);
  return index;
}

/** Passes the index of a view to the next one. */
function hand(view, next, index = INDEXES.get(view)) {
  if (index) INDEXES.set(next, index);
  return next;
}

function at(view, path) {
  let task = view;
  for (const position of path) task = task?.tasks?.[position];
  return task;
}

function compact(fields) {
  for (const [name, value] of Object.entries(fields)) if (value === undefined) delete fields[name];
  return fields;
}

function isRecord(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

// ------------------------------------------------------------------ the way to the server

/** The options, what is known so far, and the waiting time. */
class Link {
  constructor(url, options) {
    this.url = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
    this.options = options;
    this.signal = options.signal;
    this.token = options.token;
    this.lastEventId = options.lastEventId === undefined ? "" : String(options.lastEventId);
    this.fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    this.firstDelay = FIRST_DELAY_MS;
    this.failures = 0;
    /** Since when nothing came. */ this.since = Date.now();
    this.hasEnded = false;
    this.hasRenewed = false;
    this.renewedAt = -Infinity;
    if (options.transport === "eventsource" && (options.token !== undefined || options.headers !== undefined)) {
      throw new TypeError("an EventSource cannot send headers: use a cookie, or the transport `fetch`");
    }
  }

  get isStopped() {
    return this.signal?.aborted ?? false;
  }

  /** Returns the URL of the stream, with the position in it if it cannot be sent as a header. */
  position() {
    const url = new URL(this.url);
    if (this.lastEventId === "") return url.href;
    for (const other of ["from", "since"]) url.searchParams.delete(other);
    url.searchParams.set("lastEventId", this.lastEventId);
    return url.href;
  }

  say(state, reason = "") {
    this.options.onState?.(state, reason);
  }

  /** Records that something came. */
  succeeded() {
    this.failures = 0;
    this.since = Date.now();
    this.hasRenewed = false;
  }

  /** Records an event of the stream, and returns it in its public form. */
  take(type, text, id) {
    let data = text;
    try {
      data = JSON.parse(text);
    } catch {
      // An event of another program stays a string.
    }
    // A merged stream has other ids, and ends with the last of its runs.
    if (type === "restarted") this.hasEnded = false;
    else if (id !== null) this.hasEnded = /^\d+$/.test(id) && isTerminal(type, data);
    return { type, data, id };
  }

  /** Waits before the next attempt, or gives up. */
  async later(reason, atLeast = 0) {
    const longest = Math.max(LONGEST_DELAY_MS, this.firstDelay);
    // A server may want its clients back at once, but not one after the other while it is down.
    const least = this.failures === 0 ? 0 : FIRST_DELAY_MS / 2;
    const delay = Math.min(longest, Math.max(this.firstDelay, least) * 2 ** Math.min(this.failures, 16));
    const wait = Math.max(Math.min(atLeast, LONGEST_ASKED_MS), delay * (0.5 + Math.random() / 2));
    this.failures += 1;
    const { giveUpAfter = Infinity } = this.options;
    if (Date.now() + wait - this.since > giveUpAfter) throw new WatchError("gaveUp", reason);
    this.say("waiting", reason);
    await this.sleep(wait, atLeast === 0);
  }

  /** Sleeps until the time, the signal, or, with `hurry`, the return of the network. */
  sleep(milliseconds, hurry) {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.signal?.removeEventListener("abort", done);
        globalThis.removeEventListener?.("online", done);
        resolve();
      };
      const timer = setTimeout(done, milliseconds);
      this.signal?.addEventListener("abort", done);
      if (hurry) globalThis.addEventListener?.("online", done);
      if (this.isStopped) done();
    });
  }

  /** Handles an answer without events. Resolves if it makes sense to come back. */
  async refused(response) {
    const { status } = response;
    const reason = `the server answers ${status}`;
    response.body?.cancel().catch(() => {});
    if (status === 401 || status === 403) {
      if (!this.options.renew || this.hasRenewed) throw new WatchError("notAllowed", reason, status);
      return this.renew("refused");
    }
    if (status === 404 || status === 410) throw new WatchError("unknownRun", reason, status);
    if (!PASSING.includes(status) && status < 500) throw new WatchError("refused", reason, status);
    return this.later(reason, 1000 * Number(response.headers.get("retry-after")) || 0);
  }

  /** Asks for a new permission: once, until something has come with it. */
  async renew(why) {
    if (Date.now() - this.renewedAt < RENEW_AGAIN_MS) await this.later("the new permission has run out at once");
    if (this.isStopped) return;
    this.renewedAt = Date.now();
    this.hasRenewed = true;
    this.say("renewing", why);
    let token;
    try {
      token = await this.options.renew(why);
    } catch (cause) {
      throw new WatchError("notAllowed", "the permission could not be renewed", undefined, { cause });
    }
    if (typeof token === "string") this.token = token;
  }

  /**
   * Sends a request; resolves to the response, or to the reason why there is none. `control` ends it.
   */
  async ask(url, accept, control, { method = "GET", headers = {} } = {}) {
    const timer = setTimeout(() => control.abort(), ANSWER_WITHIN_MS);
    const sent = { ...this.options.headers, accept, ...headers };
    if (this.token !== undefined) sent.authorization = `Bearer ${this.token}`;
    try {
      const credentials = this.options.withCredentials ? "include" : "same-origin";
      return await this.fetch(url, { method, headers: sent, credentials, cache: "no-store", signal: control.signal });
    } catch (error) {
      return control.signal.aborted && !this.isStopped ? "the server does not answer" : `the server cannot be reached: ${reasonOf(error)}`;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Returns a way to end a request, which the caller's signal uses too. Call `release` when it is over. */
  controller() {
    const control = new AbortController();
    const abort = () => control.abort();
    this.signal?.addEventListener("abort", abort);
    if (this.isStopped) abort();
    control.release = () => {
      this.signal?.removeEventListener("abort", abort);
      control.abort();
    };
    return control;
  }
}

function isTerminal(type, data) {
  return (type === "completed" || type === "failed") && isRecord(data) && data.kind === "workflow" && data.parentId == null;
}

function reasonOf(error) {
  return error?.cause?.message || error?.message || String(error);
}

function batches(link) {
  return link.options.transport === "eventsource" ? byEventSource(link) : byFetch(link);
}

/** Loads the snapshot. Resolves to nothing if the server has none: the events have everything, too. */
async function loadSnapshot(link) {
  const { snapshot = true } = link.options;
  if (snapshot === false) return undefined;
  let url = snapshot;
  if (snapshot === true) {
    url = new URL(link.url);
    if (!url.pathname.endsWith("/sse")) return undefined;
    url.pathname = url.pathname.slice(0, -4);
    url.search = url.hash = "";
  }
  for (;;) {
    if (link.isStopped) return undefined;
    link.say("connecting");
    const control = link.controller();
    const timer = setTimeout(() => control.abort(), SNAPSHOT_WITHIN_MS);
    try {
      const response = await link.ask(new URL(url, link.url).href, "application/json", control);
      if (link.isStopped) return undefined;
      if (typeof response === "string") await link.later(response);
      else if (response.ok) {
        const text = await response.text();
        link.since = Date.now();
        return readSnapshot(text);
      } else if (NO_SNAPSHOT.includes(response.status)) return undefined;
      else await link.refused(response);
    } catch (error) {
      if (error instanceof WatchError) throw error;
      if (!link.isStopped) await link.later("the snapshot was cut off");
    } finally {
      clearTimeout(timer);
      control.release();
    }
  }
}

function readSnapshot(text) {
  try {
    const value = JSON.parse(text);
    if (isRecord(value) && Array.isArray(value.tasks) && typeof value.state === "string") return value;
  } catch {
    // A page, for example.
  }
  return undefined;
}

async function* byFetch(link) {
  const { silence = 60_000 } = link.options;
  while (!link.isStopped) {
    link.say("connecting");
    const control = link.controller();
    let reason = "the server closed the stream";
    let mustRenew = false;
    try {
      const headers = link.lastEventId === "" ? {} : { "last-event-id": link.lastEventId };
      const response = await link.ask(link.url.href, "text/event-stream", control, { headers });
      if (link.isStopped) return;
      if (typeof response === "string") {
        await link.later(response);
        continue;
      }
      if (response.status === 204) break;
      if (response.status !== 200) {
        await link.refused(response);
        continue;
      }
      mustBeEvents(response);
      link.since = Date.now();
      link.say("live");
      const parser = new EventParser(link.lastEventId);
      const reader = response.body.getReader();
      for (;;) {
        const timer = setTimeout(() => control.abort(), link.hasEnded ? AFTER_THE_END_MS : Math.min(silence, 2 ** 31 - 1));
        let read;
        try {
          read = await reader.read();
        } catch (error) {
          reason = control.signal.aborted ? "the server has become silent" : `the connection was cut: ${reasonOf(error)}`;
          break;
        } finally {
          clearTimeout(timer);
        }
        if (read.done) break;
        const raw = parser.feed(read.value);
        link.succeeded();
        if (parser.retry !== undefined) link.firstDelay = Math.min(parser.retry, LONGEST_ASKED_MS);
        const events = raw.map(({ type: name, data, hasId, lastEventId }) => link.take(name, data, hasId ? lastEventId : null));
        link.lastEventId = parser.lastEventId;
        if (events.length > 0) yield events;
        if (link.isStopped) return;
        mustRenew = events.some((event) => event.type === "expired" && event.id === null);
        if (mustRenew) break;
      }
    } finally {
      control.release();
    }
    if (link.isStopped) return;
    if (link.hasEnded) break;
    if (mustRenew && link.options.renew) await link.renew("expired");
    else await link.later(reason);
  }
  if (!link.isStopped) link.say("ended");
}

/** Throws for an answer that is no stream, such as a page to log in that the server redirects to. */
function mustBeEvents({ headers, redirected }) {
  const type = headers.get("content-type") ?? "";
  if (/^text\/event-stream\s*(;|$)/i.test(type)) return;
  throw new WatchError("notEvents", `the server ${redirected ? "redirects, and then " : ""}answers with ${type.slice(0, 100) || "no type"}`);
}

async function* byEventSource(link) {
  const EventSource = link.options.EventSource ?? globalThis.EventSource;
  if (!EventSource) throw new TypeError("there is no EventSource here: use the transport `fetch`, or give one as an option");
  const types = new Set([...EVENT_TYPES, "message", ...(link.options.types ?? [])]);
  while (!link.isStopped) {
    link.say("connecting");
    const source = new EventSource(link.position(), { withCredentials: link.options.withCredentials ?? false });
    /** Events that have come and were not yet returned. */
    let queue = [];
    let hasFailed = false;
    let mustRenew = false;
    let isOpen = false;
    let isLate = false;
    let reason = "the server does not answer";
    let wake = () => {};
    /** Stops waiting for the server after this time; without one, waits. */
    let timer;
    const limit = (milliseconds = Infinity) => {
      clearTimeout(timer);
      isLate = false;
      const expire = () => {
        isLate = true;
        wake();
      };
      if (milliseconds < 2 ** 31) timer = setTimeout(expire, milliseconds);
    };
    // An EventSource reconnects by itself, for ever.
    const limitTries = () => limit((link.options.giveUpAfter ?? Infinity) + link.since - Date.now());
    const receive = ({ type, data, lastEventId }) => {
      const id = type === "reset" || type === "expired" || lastEventId === "" ? null : lastEventId;
      if (id !== null) link.lastEventId = id;
      link.succeeded();
      if (type === "expired") mustRenew = true;
      queue.push(link.take(type, data, id));
      limit(link.hasEnded ? AFTER_THE_END_MS : undefined);
      wake();
    };
    for (const type of types) source.addEventListener(type, receive);
    source.addEventListener("open", () => {
      isOpen = true;
      limit();
      link.say("live");
    });
    source.addEventListener("error", () => {
      // Nobody is told of comments: an open connection counts as one that was not silent.
      if (isOpen) link.since = Date.now();
      reason = isOpen ? "the connection was cut" : "the server cannot be reached";
      isOpen = false;
      if (source.readyState === 2 || link.hasEnded) {
        hasFailed = true;
        wake();
      } else {
        limitTries();
        link.say("waiting", reason);
      }
    });
    limitTries();
    const stop = () => wake();
    link.signal?.addEventListener("abort", stop);
    try {
      while (!link.isStopped) {
        if (queue.length > 0) {
          const events = queue;
          queue = [];
          yield events;
        } else if (hasFailed || mustRenew || (isLate && link.hasEnded)) break;
        else if (isLate) throw new WatchError("gaveUp", reason);
        else await new Promise((resolve) => (wake = resolve));
      }
    } finally {
      link.signal?.removeEventListener("abort", stop);
      clearTimeout(timer);
      source.close();
    }
    if (link.isStopped) return;
    if (link.hasEnded) break;
    if (mustRenew && link.options.renew) {
      await link.renew("expired");
      continue;
    }
    // An EventSource does not give the reason why it has stopped.
    const control = link.controller();
    try {
      const response = await link.ask(link.position(), "text/event-stream", control, { method: "HEAD" });
      if (link.isStopped) return;
      if (typeof response === "string") await link.later(response);
      else if (response.status === 204) break;
      else if (response.status === 200) {
        // The answer to `HEAD` may have no type.
        if (response.headers.has("content-type")) mustBeEvents(response);
        await link.later("the connection was cut");
      } else await link.refused(response);
    } finally {
      control.release();
    }
  }
  if (!link.isStopped) link.say("ended");
}

// ------------------------------------------------------------------ the format

/**
 * Reads an event stream in pieces of any length, by the rules of WHATWG HTML, section 9.2.6. An event that the end of
 * the stream cuts off is dropped.
 */
export class EventParser {
  #decoder = new TextDecoder(); // skips a byte order mark at the start
  #rest = "";
  #afterCr = false;
  #type = "";
  #data = "";
  #id;

  /** `lastEventId` is the id after which the stream goes on. */
  constructor(lastEventId = "") {
    this.lastEventId = lastEventId;
    this.retry = undefined;
  }

  /** Returns the events that these bytes complete. */
  feed(bytes) {
    const events = [];
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return events;
    if (this.#afterCr && text[0] === "\n") text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    let start = 0;
    for (const end of text.matchAll(/\r\n?|\n/g)) {
      this.#line(this.#rest + text.slice(start, end.index), events);
      this.#rest = "";
      start = end.index + end[0].length;
    }
    this.#rest += text.slice(start);
    if (this.#rest.length + this.#data.length > MAX_EVENT) throw new WatchError("tooLarge", `an event has more than ${MAX_EVENT} characters`);
    return events;
  }

  #line(line, events) {
    if (line === "") return this.#dispatch(events);
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon === -1 ? line : line.slice(0, colon);
    let value = colon === -1 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (field === "event") this.#type = value;
    else if (field === "data") {
      this.#data += `${value}\n`;
      if (this.#data.length > MAX_EVENT) throw new WatchError("tooLarge", `an event has more than ${MAX_EVENT} characters`);
    } else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^\d+$/.test(value) && Number.isSafeInteger(Number(value))) this.retry = Number(value);
  }

  #dispatch(events) {
    const hasId = this.#id !== undefined;
    if (hasId) this.lastEventId = this.#id;
    const data = this.#data;
    const type = this.#type || "message";
    this.#id = undefined;
    this.#data = this.#type = "";
    if (data !== "") events.push({ type, data: data.slice(0, -1), hasId, lastEventId: this.lastEventId });
  }
}
