// What a WebAssembly instance holds, and what becomes of it when the instance dies: see life.rs.
import { DurableObject, WorkflowEntrypoint } from "cloudflare:workers";

const DIED = "the WebAssembly instance of this Worker has died";

/** What to call when the instance that lives now dies. */
let held = new Set();
/** The same for objects, who leave memory without a word: only while somebody else knows of them. */
let heldObjects = new Set();
const objects = new WeakMap();
// Compatibility dates before 2025-05-05 have neither.
const canForget = typeof FinalizationRegistry !== "undefined" && typeof WeakRef !== "undefined";
const gone = canForget && new FinalizationRegistry((reference) => heldObjects.delete(reference));

/** How many instances have died. */
let deaths = 0;
let isDying = false;
/** A function of the instance that lives. */
let enter;
const [PREPARE, RENEW, NOTHING] = [0, 1, 2];
/** Bare functions of that instance. */
let lastWords = [];

/** Each instance calls this when it starts. */
export function begin(function_) {
  const before = enter;
  enter = function_;
  if (isDying) return;
  // One that was replaced without a word, as builds whose panics abort are.
  if (before) {
    deaths += 1;
    letGo();
  }
  // Not before all functions that run at its start have run.
  queueMicrotask(() => {
    if (enter === function_) call(PREPARE);
  });
}

/** For `PREPARE`: what to call, past all guards, when this instance has died. */
export function prepared(table, ...functions) {
  lastWords = functions.map((index) => table.get(index));
}

/** The instance has just died: its own code calls this, at the very end. */
export function died() {
  isDying = true;
  deaths += 1;
  for (const word of lastWords.splice(0)) {
    try {
      word();
    } catch {
      // Each ends in a trap: when a call from a dead instance returns to it, it dies once more.
    }
  }
  // A new instance begins with the next call of any function of the module. That call would come from
  // whoever is first, with pointers into the memory of the old instance. So it is this one, which has none.
  call(NOTHING);
  // What is still on the stack moves the stack pointer of the new instance as it leaves. Nothing has run in
  // that one yet, so it is replaced, too.
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

// Everything that belongs to a request or an object can only be used by code of the same. A promise that was
// made there has what follows it run there, whoever resolves it.
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

/** Cuts the stream off when the instance dies. Returns what `release` takes. */
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

/** The same promise, but that it is rejected when the instance dies. */
export function mortal(promise) {
  return new Promise((resolve, reject) => {
    const end = hold(() => reject(new Error(DIED)));
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
}

/** Makes the class of this object one of the platform's. */
export function extend(instance, isWorkflow) {
  const base = isWorkflow ? WorkflowEntrypoint : DurableObject;
  const { constructor } = instance;
  const { prototype } = constructor;
  // Each instance of the module does this at its start, with the same classes.
  if (Object.getPrototypeOf(constructor) === base) return;
  // The runtime walks a class's prototypes once, when the module was loaded, to see what it is.
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

/** So many deaths in a row fail a run: of a code that waited for the engine, and of one that did not. */
const MOST_DEATHS = { waiting: 12, working: 3 };
const PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;

/**
 * A lifetime of a run. The engine is not told that the instance dies in it, since it would end the run: the
 * code begins anew in the next instance, and gets what it asked for in the last one without the engine being
 * asked again.
 */
async function live(run, steps) {
  const inARow = { waiting: 0, working: 0 };
  for (;;) {
    const [deathsBefore, answeredBefore] = [deaths, steps.answered];
    steps.beginAgain();
    try {
      return await run(steps);
    } catch (error) {
      if (deaths === deathsBefore) throw error;
      if (steps.answered > answeredBefore) inARow.waiting = inARow.working = 0;
      // A code that dies of itself does so while it works.
      const how = steps.isWaiting ? "waiting" : "working";
      inARow[how] += 1;
      if (inARow[how] >= MOST_DEATHS[how] || steps.isForgotten) throw new Error(DIED);
    } finally {
      if (deaths === deathsBefore) steps.end();
    }
    const pause = Math.min(PAUSE_MS * 2 ** (inARow.waiting + inARow.working - 1), LONGEST_PAUSE_MS);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

/** All runs of the isolate, oldest first, and about how many bytes the results are that they remember. */
const remembering = new Set();
let remembered = 0;
const MOST_REMEMBERED = 16 * 1024 * 1024;

/** The engine's step object for one lifetime of a run, which may outlive several instances. */
class Steps {
  /** How many calls the engine has answered. */
  answered = 0;
  isForgotten = false;
  #step;
  /** By what they are, name and number. */
  #calls = new Map();
  #counts = new Map();
  /** Those that the code has made since it began, and the engine has not answered. */
  #waiting = new Set();
  #bytes = 0;
  #hasEnded = false;

  constructor(step) {
    this.#step = step;
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
      known.slots.forEach((slot, index) => slot.fill(functions[index]));
      return known.answer;
    }
    const slots = functions.map((function_) => new Slot(function_));
    const answer = make(slots.map((slot) => slot.function));
    if (!this.isForgotten) {
      const call = { slots, answer, isAnswered: false };
      this.#calls.set(key, call);
      this.#waiting.add(call);
      answer.then(
        (value) => this.#remember(call, weight(value)),
        () => this.#remember(call, 0),
      );
    }
    return answer;
  }

  #remember(call, bytes) {
    this.answered += 1;
    call.isAnswered = true;
    this.#waiting.delete(call);
    if (this.isForgotten || this.#hasEnded) return;
    remembering.add(this);
    this.#bytes += bytes;
    remembered += bytes;
    for (const steps of remembering) {
      if (remembered <= MOST_REMEMBERED) break;
      steps.#forget();
    }
  }

  /** It cannot outlive the instance any more. */
  #forget() {
    this.isForgotten = true;
    remembering.delete(this);
    remembered -= this.#bytes;
    this.#bytes = 0;
    for (const { slots } of this.#calls.values()) slots.forEach((slot) => slot.end());
    this.#calls.clear();
  }

  /** The code begins anew. */
  beginAgain() {
    this.#counts.clear();
    this.#waiting.clear();
  }

  get isWaiting() {
    return this.#waiting.size > 0;
  }

  /** The code has ended. Rollbacks may still be called. */
  end() {
    this.#hasEnded = true;
    this.#forget();
  }
}

/** A function that the engine has, and who it stands for: one of the instance that lives. */
class Slot {
  #function;
  #death;
  #hasEnded = false;
  #waiting = [];

  constructor(function_) {
    this.fill(function_);
    this.function = function_ && ((...args) => this.#call(args));
  }

  #call(args) {
    if (this.#death === deaths) return this.#function(...args);
    if (this.#hasEnded) throw new Error(DIED);
    return new Promise((resolve, reject) => {
      this.#waiting.push((function_) => {
        if (function_) resolve(function_(...args));
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

  #tell(function_) {
    for (const tell of this.#waiting.splice(0)) tell(function_);
  }
}

const delayOf = (config) => (typeof config?.retries?.delay === "function" ? config.retries.delay : undefined);
const withDelay = (config, delay) => (delay ? { ...config, retries: { ...config.retries, delay } } : config);

/** About how many bytes a value takes. */
function weight(value) {
  let bytes = 0;
  const parts = [value];
  while (parts.length > 0 && bytes <= MOST_REMEMBERED) {
    const part = parts.pop();
    bytes += 16;
    if (typeof part === "string") bytes += 2 * part.length;
    else if (part?.byteLength !== undefined) bytes += part.byteLength;
    // It can be read once.
    else if (part instanceof ReadableStream) bytes += MOST_REMEMBERED;
    else if (typeof part === "object" && part !== null) for (const [name, inner] of Object.entries(part)) bytes += 2 * name.length, parts.push(inner);
  }
  return bytes;
}
