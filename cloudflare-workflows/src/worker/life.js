// Streams, sockets, promises and runs that belong to a WebAssembly instance, and their end: see life.rs.
import { DurableObject, WorkflowEntrypoint } from "cloudflare:workers";

const DIED = "the WebAssembly instance of this Worker has died";

/** Functions to call when the living instance dies. */
let held = new Set();
/** The same for objects, which leave memory without a notice: held weakly. */
let heldObjects = new Set();
const objects = new WeakMap();
// Workers with a compatibility date before 2025-05-05 have neither class.
const canForget = typeof FinalizationRegistry !== "undefined" && typeof WeakRef !== "undefined";
const gone = canForget && new FinalizationRegistry((reference) => heldObjects.delete(reference));

/** The number of instances that have died. */
let deaths = 0;
let isDying = false;
/** A function of the living instance. */
let enter;
const [PREPARE, RENEW, NOTHING] = [0, 1, 2];
/** Functions of the living instance, called directly and without guards when it dies. */
let lastWords = [];

/** Each instance calls this when it starts. */
export function begin(function_) {
  const before = enter;
  enter = function_;
  if (isDying) return;
  // The instance before was replaced without a call of `died`, as in builds whose panics abort.
  if (before) {
    deaths += 1;
    letGo();
  }
  // After all functions that run at the start of the instance.
  queueMicrotask(() => {
    if (enter === function_) withPromises(() => call(PREPARE));
  });
}

/**
 * Lets the instance make its queue of tasks with promises. It would use `queueMicrotask`, which the runtime wraps in
 * a function of its own for each call: 20 µs, where a promise takes less than one. The queue keeps one promise that
 * is resolved already, and this is no request's code, so that the promise belongs to no request.
 */
function withPromises(work) {
  const name = "queueMicrotask";
  const own = Object.getOwnPropertyDescriptor(globalThis, name);
  try {
    Object.defineProperty(globalThis, name, { value: undefined, configurable: true, writable: true });
  } catch {
    return work();
  }
  work();
  if (own) Object.defineProperty(globalThis, name, own);
  else delete globalThis[name];
}

/** Answers `PREPARE` with the functions to call when this instance has died. */
export function prepared(table, ...functions) {
  lastWords = functions.map((index) => table.get(index));
}

/** Called by the instance's own code, at the very end of its death. */
export function died() {
  isDying = true;
  deaths += 1;
  for (const word of lastWords.splice(0)) {
    try {
      word();
    } catch {
      // Each call ends in a trap, since it returns to a dead instance.
    }
  }
  // The next call of any function of the module begins a new instance. It must not be one that has pointers
  // into the memory of the old instance, so it is this call, which has none.
  call(NOTHING);
  // The frames that are still on the stack move the stack pointer of the new instance when they leave. Nothing
  // has run in that instance yet, so it is replaced, too.
  queueMicrotask(() => {
    call(RENEW);
    call(NOTHING);
    isDying = false;
    call(PREPARE);
    letGo();
  });
}

function call(what) {
  try {
    enter(what);
  } catch (error) {
    console.error("ssetarget: no new WebAssembly instance begins:", error);
  }
}

function letGo() {
  const lost = [...held];
  for (const reference of heldObjects) {
    const end = reference.deref();
    if (end) lost.push(end);
  }
  held = new Set();
  heldObjects = new Set();
  for (const end of lost) end();
}

// A thing that belongs to a request or an object can only be used by code of the same request or object. The
// callbacks of a promise run where the promise was made, whichever code resolves it.
function onDeath(end) {
  let resolve;
  const death = new Promise((resolve_) => {
    resolve = resolve_;
  });
  death.then(end).catch(() => {}); // It has ended already, or its request has.
  return resolve;
}

function hold(end) {
  held.add(end);
  return end;
}

export const release = (end) => held.delete(end);

/** Cuts the stream off when the instance dies. Returns the argument for `release`. */
export const holdWriter = (writer) => hold(onDeath(() => writer.abort(new Error(DIED))));

/** Closes the socket when the instance dies. */
export const holdSocket = (socket, code) => hold(onDeath(() => socket.close(code, DIED)));

/** Closes the hibernating sockets of an object when the instance dies. */
export function holdObject(state, code) {
  if (!canForget) return;
  const end = onDeath(() => {
    for (const socket of state.getWebSockets()) socket.close(code, DIED);
  });
  objects.set(state, end);
  const reference = new WeakRef(end);
  heldObjects.add(reference);
  gone.register(end, reference);
}

/**
 * Returns a promise of the same result that is rejected when the instance dies. `free` frees the code that makes the
 * result, as it waits: it is called if the engine has given up the run, unless the code or its instance has ended.
 */
export function mortal(promise, free) {
  let end;
  const mine = new Promise((resolve, reject) => {
    end = hold(() => reject(new Error(DIED)));
    promise.then(
      (value) => {
        held.delete(end);
        resolve(value);
      },
      (error) => {
        held.delete(end);
        reject(error);
      },
    );
  });
  if (free) freeing.set(mine, () => held.delete(end) && free());
  return mine;
}

/** How the code is freed that makes the result of such a promise. */
const freeing = new WeakMap();

/**
 * Is told when a call of the engine can have no answer any more. The engine ends a lifetime without a word: the call of
 * `run` is cancelled, with all that belongs to its request, and nothing of the code's runs again. Its memory would stay,
 * since WebAssembly has what waits and what is waited for. But only the engine's call holds the function that takes its
 * answer.
 */
const unanswerable = canForget && new FinalizationRegistry((call) => call.steps?.lose(call));

/** Longer than it takes until the memory of a request is collected: it is set again and again. */
const GUARD_MS = 60_000;
const departed = canForget && new FinalizationRegistry((guard) => guard.isNeeded() && guard.gone());

/**
 * Calls `gone` when the request or the object that this is called in has ended without a word: it is cancelled, or reset. Then
 * nothing of its code runs again, and WebAssembly has both what waits and what is waited for. But only the runtime's timer
 * holds the function that it calls. Returns the argument for `unguard`. Ends with the WebAssembly instance, unless it
 * `outlives` that: an object with a timer does not leave memory.
 */
export function guard(gone, outlives = false) {
  const born = deaths;
  const guard = { gone, isNeeded: () => guard.gone && (outlives || born === deaths) };
  const set = () => {
    const look = () => {
      departed.unregister(guard);
      if (guard.isNeeded()) set();
    };
    // Outside of a request it is refused, and throws.
    const timer = setTimeout(look, GUARD_MS);
    departed.register(look, guard, guard);
    // With Node's timers it is an object, which has the function.
    guard.timer = typeof timer === "object" ? new WeakRef(timer) : { deref: () => timer };
  };
  if (canForget) set();
  return guard;
}

export function unguard(guard) {
  guard.gone = undefined;
  if (!canForget) return;
  departed.unregister(guard);
  const timer = guard.timer.deref();
  if (timer !== undefined) clearTimeout(timer);
}

/** Makes the class of this object one of the platform's. */
export function extend(instance, isWorkflow) {
  const base = isWorkflow ? WorkflowEntrypoint : DurableObject;
  const { constructor } = instance;
  const { prototype } = constructor;
  // Each instance of the module calls this at its start, with the same classes.
  if (Object.getPrototypeOf(constructor) === base) return;
  // The runtime reads the prototypes of a class once, when the module is loaded, to find its kind.
  Object.setPrototypeOf(constructor, base);
  Object.setPrototypeOf(prototype, base.prototype);
  // Methods of an exported class can be called by RPC, and these would destroy the object.
  for (const name of ["free", "__destroy_into_raw", Symbol.dispose]) delete prototype[name];
  if (!isWorkflow) return;
  const { run } = prototype;
  prototype.run = function (event, step) {
    return live((steps) => run.call(this, event, steps), new Steps(step));
  };
}

/** The numbers of deaths in a row that fail a run: while its code waits for the engine, and while it does not. */
const MOST_DEATHS = { waiting: 12, working: 3 };
const PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;

/**
 * A lifetime of a run. The engine is not notified when the instance dies, since it would end the run. The code
 * begins again in the next instance, and gets the answers of the last one without another call of the engine.
 */
async function live(run, steps) {
  const inARow = { waiting: 0, working: 0 };
  for (;;) {
    const [deathsBefore, answeredBefore] = [deaths, steps.answered];
    steps.beginAgain();
    try {
      return await steps.works(run(steps));
    } catch (error) {
      if (deaths === deathsBefore) throw error;
      if (steps.answered > answeredBefore) inARow.waiting = inARow.working = 0;
      // Code that causes the death does so while it works, and not while it waits.
      const how = steps.isWaiting ? "waiting" : "working";
      inARow[how] += 1;
      if (inARow[how] >= MOST_DEATHS[how] || steps.isForgotten) {
        steps.end();
        throw new Error(DIED);
      }
    } finally {
      if (deaths === deathsBefore) steps.end();
    }
    const pause = Math.min(PAUSE_MS * 2 ** (inARow.waiting + inARow.working - 1), LONGEST_PAUSE_MS);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

/** All runs of the isolate, oldest first, and the approximate size in bytes of the results that they keep. */
const remembering = new Set();
let remembered = 0;
const MOST_REMEMBERED = 16 * 1024 * 1024;

/** The engine's step object for one lifetime of a run, which may outlive several instances. */
class Steps {
  /** The number of calls that the engine has answered. */
  answered = 0;
  isForgotten = false;
  #step;
  /** The calls, by kind, name and number. */
  #calls = new Map();
  #counts = new Map();
  /** The calls that the code has made since it began, and that the engine has not answered. */
  #waiting = new Set();
  /** All calls that the engine has not answered and still may. */
  #unanswered = new Set();
  /** Promises of the code that is at work: that of the run, and of attempts. */
  #working = new Set();
  #bytes = 0;
  #hasEnded = false;
  #guard;

  constructor(step) {
    this.#step = step;
    // The code may wait for something else than the engine when that gives it up: for an object's answer, or a timer of
    // its own. So its request counts as a call of the engine.
    const request = { steps: this };
    this.#unanswered.add(request);
    this.#guard = guard(() => this.lose(request), true);
  }

  do(name, config, callback, rollback) {
    return this.#call(`do ${name}`, [callback, delayOf(config), rollback?.rollback, delayOf(rollback?.rollbackConfig)], (functions) => {
      const [own, delay, undo, undoDelay] = functions;
      return this.#step.do(
        name,
        withDelay(config, delay),
        own,
        rollback && { ...rollback, rollback: undo, ...(rollback.rollbackConfig && { rollbackConfig: withDelay(rollback.rollbackConfig, undoDelay) }) },
      );
    });
  }

  sleep(name, duration) {
    return this.#call(`sleep ${name}`, [], () => this.#step.sleep(name, duration));
  }

  sleepUntil(name, time) {
    return this.#call(`sleep ${name}`, [], () => this.#step.sleepUntil(name, time));
  }

  waitForEvent(name, options) {
    return this.#call(`wait ${name}`, [], () => this.#step.waitForEvent(name, options));
  }

  #call(what, functions, make) {
    const count = (this.#counts.get(what) ?? 0) + 1;
    this.#counts.set(what, count);
    const key = `${count} ${what}`;
    const known = this.#calls.get(key);
    if (known) {
      if (!known.isAnswered) this.#waiting.add(known);
      // Not in a function: `take` would share its scope, and keep these as long as the engine's call lasts.
      for (const [index, slot] of known.slots.entries()) slot.fill(functions[index]);
      return known.answer;
    }
    const slots = functions.map((function_) => new Slot(function_, this));
    const call = { slots, isAnswered: false, steps: this };
    const take = (value) => {
      this.#remember(call, value);
      return value;
    };
    const answer = make(slots.map((slot) => slot.function)).then(take, (error) => {
      this.#remember(call);
      throw error;
    });
    answer.catch(() => {}); // The code may not wait for it any more.
    this.#unanswered.add(call);
    if (unanswerable) unanswerable.register(take, call);
    if (!this.isForgotten) {
      call.answer = answer;
      this.#calls.set(key, call);
      this.#waiting.add(call);
    }
    return answer;
  }

  #remember(call, value) {
    this.answered += 1;
    call.isAnswered = true;
    call.steps = undefined;
    this.#waiting.delete(call);
    this.#unanswered.delete(call);
    if (this.isForgotten || this.#hasEnded) return;
    remembering.add(this);
    const bytes = weight(value);
    this.#bytes += bytes;
    remembered += bytes;
    for (const steps of remembering) {
      if (remembered <= MOST_REMEMBERED) break;
      steps.#forget();
    }
  }

  /** Gives up the results, so that the run cannot outlive the instance any more. */
  #forget() {
    this.isForgotten = true;
    remembering.delete(this);
    remembered -= this.#bytes;
    this.#bytes = 0;
    for (const { slots } of this.#calls.values()) slots.forEach((slot) => slot.end());
    this.#calls.clear();
  }

  /** The code begins again. */
  beginAgain() {
    this.#counts.clear();
    this.#waiting.clear();
  }

  get isWaiting() {
    return this.#waiting.size > 0;
  }

  /** Notes that code is at work until this promise is settled, and returns it. */
  works(promise) {
    const done = () => this.#working.delete(promise);
    this.#working.add(promise);
    promise.then(done, done);
    return promise;
  }

  /** This call can have no answer any more. If that is so of all, the engine has given up this lifetime. */
  lose(call) {
    call.slots?.forEach((slot) => slot.drop());
    this.#unanswered.delete(call);
    if (this.#hasEnded || this.#unanswered.size > 0) return;
    this.#end();
    for (const promise of this.#working) freeing.get(promise)?.();
    this.#working.clear();
  }

  /** The code has ended, and is told so in its own request. */
  end() {
    unguard(this.#guard);
    this.#end();
  }

  /** The code has ended. Rollbacks may still be called. */
  #end() {
    this.#hasEnded = true;
    this.#waiting.clear();
    this.#forget();
  }
}

/** A function for the engine that calls the current function of the living instance. */
class Slot {
  #function;
  #death;
  #hasEnded = false;
  #waiting = [];
  #steps;

  constructor(function_, steps) {
    this.#steps = steps;
    this.fill(function_);
    this.function = function_ && ((...args) => this.#call(args));
  }

  #call(args) {
    if (this.#death === deaths) return this.#steps.works(this.#function(...args));
    if (this.#hasEnded) throw new Error(DIED);
    return new Promise((resolve, reject) => {
      this.#waiting.push((function_) => {
        if (function_) resolve(this.#steps.works(function_(...args)));
        else reject(new Error(DIED));
      });
    });
  }

  fill(function_) {
    this.#function = function_;
    this.#death = deaths;
    this.#tell(function_);
  }

  end() {
    this.#hasEnded = true;
    this.#tell(undefined);
  }

  /** The engine may hold `function` for long, and does not call it any more. */
  drop() {
    this.#function = this.#death = undefined;
    this.end();
  }

  #tell(function_) {
    for (const tell of this.#waiting.splice(0)) tell(function_);
  }
}

const delayOf = (config) => (typeof config?.retries?.delay === "function" ? config.retries.delay : undefined);
const withDelay = (config, delay) => (delay ? { ...config, retries: { ...config.retries, delay } } : config);

/** Returns the approximate size of a value in bytes. */
function weight(value) {
  let bytes = 0;
  const parts = [value];
  while (parts.length > 0 && bytes <= MOST_REMEMBERED) {
    const part = parts.pop();
    bytes += 16;
    if (typeof part === "string") bytes += 2 * part.length;
    else if (part?.byteLength !== undefined) bytes += part.byteLength;
    // A stream can be read once.
    else if (part instanceof ReadableStream) bytes += MOST_REMEMBERED;
    else if (typeof part === "object" && part !== null) for (const [name, inner] of Object.entries(part)) bytes += 2 * name.length, parts.push(inner);
  }
  return bytes;
}
