// Tests of the JavaScript that lets runs outlive the WebAssembly instance, with fakes of the engine and of the
// instances: some cases are hard to cause in the real ones. trap.test.mjs has the real ones.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import v8 from "node:v8";
import vm from "node:vm";

import { at } from "../../scripts/lib/run.mjs";
import { becomes } from "./lib/wait.mjs";

const DIED = /the WebAssembly instance of this Worker has died/;

/** A copy of the module, with a first instance. */
async function life() {
  const source = await readFile(at("cloudflare-workflows/src/worker/life.js"), "utf8");
  const classes = "class DurableObject {}\nclass WorkflowEntrypoint {}\n";
  const code = source.replace(/^import .*$/m, classes) + `\n// ${Math.random()}`;
  const module = await import(`data:text/javascript,${encodeURIComponent(code)}`);
  const renewed = [];
  let isDead = false;
  let isToRenew = false;
  const begin = () => module.begin(enter);
  // Works like wasm-bindgen's guard: a call after a death goes to a new instance.
  const enter = (what) => {
    if (isDead || isToRenew) {
      isDead = isToRenew = false;
      renewed.push(what);
      begin();
    }
    if (what === 1) isToRenew = true;
  };
  begin();
  await sleep(0);
  return Object.assign(Object.create(module), {
    renewed,
    die() {
      isDead = true;
      module.died();
    },
  });
}

/** Makes a workflow class as wasm-bindgen does, with this `run`, whose code `free` frees where it waits. */
function workflow(module, run, free) {
  class Workflow {
    run(event, step) {
      return module.mortal(run(step, event), free && (() => free(event)));
    }
  }
  module.extend(new Workflow(), true);
  return new Workflow();
}

/** An engine: it calls a step once for each attempt, three times at most. */
function engine() {
  const calls = [];
  const step = {
    calls,
    async do(name, config, callback) {
      calls.push(name);
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await callback({ attempt });
        } catch (error) {
          if (attempt === 3) throw error;
          if (config?.retries?.delay) calls.push(`delay ${await config.retries.delay({ attempt })}`);
        }
      }
    },
    async sleep(name) {
      calls.push(name);
    },
    waitForEvent(name) {
      calls.push(name);
      return new Promise((resolve) => {
        step.send = resolve;
      });
    },
  };
  return step;
}

test("two instances begin for one that died: none has its predecessor's stack", async () => {
  const module = await life();
  module.die();
  await sleep(0);
  assert.deepEqual(module.renewed, [2, 2]);
});

test("held resources end with the instance, and released ones do not", async () => {
  const module = await life();
  const ended = [];
  const writer = (name) => ({ abort: async ({ message }) => ended.push(`${name}: ${message}`) });
  module.holdWriter(writer("kept"));
  module.release(module.holdWriter(writer("let go of")));
  const socket = { close: (code) => ended.push(`closed ${code}`) };
  module.holdSocket(socket, 4002);
  const state = { getWebSockets: () => [socket] };
  module.holdObject(state, 4001);
  const never = module.mortal(new Promise(() => {}));
  assert.equal(await module.mortal(Promise.resolve(1)), 1);
  module.die();
  await assert.rejects(never, DIED);
  await sleep(0);
  assert.deepEqual(ended.sort(), ["closed 4001", "closed 4002", "kept: the WebAssembly instance of this Worker has died"]);
  module.die();
  await sleep(0);
  assert.equal(ended.length, 3);
});

test("a run gets what the engine has answered, in its own order, and the engine is asked once", async () => {
  const module = await life();
  const step = engine();
  const lives = [];
  const run = workflow(module, async (steps) => {
    lives.push([]);
    const life = lives.at(-1);
    const twins = await Promise.all([steps.do("twin", {}, async () => 1), steps.do("twin", {}, async () => 2)]);
    life.push(...twins);
    const { payload } = await steps.waitForEvent("wait", {});
    // The code of a dead instance does not go on.
    if (life !== lives.at(-1)) return undefined;
    life.push(payload);
    life.push(await steps.do("last", {}, async () => "end"));
    return life;
  }).run({}, step);
  await becomes(() => lives, [[1, 2]]);
  module.die();
  await becomes(() => lives, [[1, 2], [1, 2]]);
  step.send({ payload: 7 });
  assert.deepEqual(await run, [1, 2, 7, "end"]);
  assert.deepEqual(lives, [[1, 2], [1, 2, 7, "end"]]);
  assert.deepEqual(step.calls, ["twin", "twin", "wait", "last"]);
});

test("an attempt that dies fails; the next calls the code of the new instance, and its delay", async () => {
  const module = await life();
  const step = engine();
  let lives = 0;
  const run = workflow(module, async (steps) => {
    const mine = (lives += 1);
    const attempt = ({ attempt }) => module.mortal(attempt === 1 ? new Promise(() => {}) : Promise.resolve(`${mine} ${attempt}`));
    return steps.do("step", { retries: { limit: 3, delay: async () => mine } }, attempt);
  }).run({}, step);
  await sleep(5);
  module.die();
  assert.equal(await run, "2 2");
  assert.deepEqual(step.calls, ["step", "delay 2"]);
});

test("a run that fails, fails", async () => {
  const module = await life();
  const failing = workflow(module, async () => {
    throw new TypeError("no");
  });
  await assert.rejects(failing.run({}, engine()), TypeError);
});

test("code that dies of itself fails its run at the third time", async () => {
  const module = await life();
  let lives = 0;
  const deadly = workflow(module, async (steps) => {
    lives += 1;
    await steps.sleep("s", 5);
    module.die();
    return new Promise(() => {});
  });
  await assert.rejects(deadly.run({}, engine()), DIED);
  // The engine answered the first one.
  assert.ok(lives <= 4, `${lives}`);
});

for (const [what, result] of [["of 17 MiB", "x".repeat(17 * 512 * 1024)], ["that is a stream", new ReadableStream()]]) {
  test(`a result ${what} is not remembered: the run cannot go on`, async () => {
    const module = await life();
    const step = engine();
    const run = workflow(module, async (steps) => {
      await steps.do("big", {}, async () => result);
      return steps.waitForEvent("wait", {});
    });
    const small = workflow(module, async (steps) => (await steps.waitForEvent("wait", {})).payload);
    const other = engine();
    const ended = [run.run({}, step), small.run({}, other)];
    await sleep(5);
    module.die();
    await assert.rejects(ended[0], DIED);
    await sleep(150);
    other.send({ payload: 1 });
    assert.equal(await ended[1], 1);
  });
}

/** JavaScript's garbage collector, and requests whose timers of a minute go with them. */
function requests(context) {
  v8.setFlagsFromString("--expose-gc");
  const [collect, real] = [vm.runInNewContext("gc"), globalThis.setTimeout];
  let current;
  globalThis.setTimeout = (look, milliseconds, ...rest) => {
    if (milliseconds !== 60_000) return real(look, milliseconds, ...rest);
    current.timers.push(look);
    return {};
  };
  context.after(() => (globalThis.setTimeout = real));
  return {
    collect,
    /** Calls `run` in a request of its own. */
    request(run) {
      const request = { timers: [] };
      current = request;
      request.answer = run();
      current = undefined;
      return request;
    },
    /** A minute passes in this request. */
    minute(request) {
      current = request;
      for (const look of request.timers.splice(0)) look();
      current = undefined;
    },
  };
}

/** Stays so over some collections. */
async function stays(now, wanted) {
  for (let times = 0; times < 5; times += 1) {
    await sleep(5);
    assert.deepEqual(now(), wanted);
  }
}

test("a lifetime that the engine has given up is freed where it waits, with its attempts, and no other one is", async (context) => {
  const { collect, request } = requests(context);
  const module = await life();
  const freed = [];
  const answered = [];
  const run = workflow(
    module,
    async (steps, { name }) => {
      const attempt = () => module.mortal(new Promise(() => {}), () => freed.push(`attempt of ${name}`));
      if (name.startsWith("attempt")) return steps.do("step", {}, attempt);
      if (name.startsWith("two")) {
        const waits = [steps.waitForEvent("kept", {}), steps.waitForEvent("lost", {})];
        await waits[0];
        answered.push(name);
        return Promise.all(waits);
      }
      await steps.do("first", {}, async () => 1);
      return steps.waitForEvent("wait", {});
    },
    ({ name }) => freed.push(name),
  );
  /** An engine that is not there any more: nobody has what would answer. */
  const gone = {
    async do(name, config, callback) {
      const result = callback({ attempt: 1 });
      return name === "step" ? new Promise(() => {}) : result;
    },
    waitForEvent: () => new Promise(() => {}),
  };
  const [kept, keptOfTwo] = [engine(), engine()];
  const goesOn = request(() => run.run({ name: "waits for an engine" }, kept));
  const ofTwo = request(() => run.run({ name: "two calls, one lost" }, { waitForEvent: (name) => (name === "kept" ? keptOfTwo : gone).waitForEvent(name) }));
  request(() => run.run({ name: "waits" }, gone));
  request(() => run.run({ name: "attempt" }, gone));
  const freedNow = () => {
    collect();
    return freed.toSorted();
  };
  const wanted = ["attempt", "attempt of attempt", "waits"];
  await becomes(freedNow, wanted);
  keptOfTwo.send({ payload: 2 });
  await becomes(() => answered, ["two calls, one lost"]);
  await stays(freedNow, wanted);
  kept.send({ payload: 3 });
  assert.deepEqual(await goesOn.answer, { payload: 3 });
  assert.ok(ofTwo.timers.length > 0);
  // What has ended is not freed again, and the code of an instance that has died is not, either.
  request(() => run.run({ name: "of a dead instance" }, gone));
  await sleep(5);
  module.die();
  await sleep(5);
  assert.deepEqual(freedNow(), wanted);
});

for (const [what, waits] of [
  ["that has called the engine for nothing", () => new Promise(() => {})],
  ["whose calls the engine has answered", (steps) => steps.sleep("is over", 1).then(() => new Promise(() => {}))],
  ["whose engine has failed a call", (steps) => steps.sleep("fails", 1).catch(() => new Promise(() => {}))],
]) {
  test(`a lifetime ${what} is freed when its request is gone, and not before`, async (context) => {
    const { collect, request, minute } = requests(context);
    const module = await life();
    const freed = [];
    const run = workflow(module, waits, ({ name }) => freed.push(name));
    const sleeps = (name) => (name === "fails" ? Promise.reject(new Error("the engine is gone")) : Promise.resolve());
    const lives = request(() => run.run({ name: "waits" }, { sleep: sleeps }));
    const freedNow = () => {
      collect();
      return freed;
    };
    await stays(freedNow, []);
    assert.equal(lives.timers.length, 1);
    minute(lives);
    await stays(freedNow, []);
    assert.equal(lives.timers.length, 1);
    lives.timers = [];
    await becomes(freedNow, ["waits"]);
  });
}

test("a lifetime that is given up lets its functions go, though the engine has them, and its code has the steps", async (context) => {
  const { collect, request } = requests(context);
  const module = await life();
  const [code, engine] = [[], []];
  const functions = [];
  const run = workflow(
    module,
    async (steps) => {
      code.push(steps); // as WebAssembly has them
      const attempt = async () => 1;
      functions.push(new WeakRef(attempt));
      return steps.do("step", {}, attempt);
    },
    () => {},
  );
  const gone = {
    do(name, config, callback) {
      engine.push(callback);
      return new Promise(() => {});
    },
  };
  request(() => run.run({}, gone));
  await becomes(
    () => {
      collect();
      return functions.filter((reference) => reference.deref()).length;
    },
    0,
  );
  assert.deepEqual([code.length, functions.length], [1, 1]);
  assert.throws(() => engine[0]({ attempt: 1 }), DIED);
});

test("a guard tells that its request is gone, once, and not if it was let go", async (context) => {
  const { collect, request, minute } = requests(context);
  const { guard, unguard } = await life();
  const gone = [];
  const guarded = (name) => request(() => guard(() => gone.push(name)));
  const [lives, goes, isLetGo] = ["lives", "goes", "is let go"].map(guarded);
  const goneNow = () => {
    collect();
    return gone;
  };
  for (const each of [lives, goes, isLetGo]) minute(each);
  await stays(goneNow, []);
  unguard(isLetGo.answer);
  goes.timers = isLetGo.timers = [];
  await becomes(goneNow, ["goes"]);
  await stays(goneNow, ["goes"]);
  unguard(lives.answer);
  minute(lives);
  assert.equal(lives.timers.length, 0);
});

test("a guard of an instance that has died sets no timer any more, and tells nothing", async (context) => {
  const { collect, request, minute } = requests(context);
  const module = await life();
  const gone = [];
  const [set, goes] = ["set", "goes"].map((name) => request(() => module.guard(() => gone.push(name))));
  module.die();
  await sleep(5);
  minute(set);
  assert.equal(set.timers.length, 0);
  goes.timers = [];
  await stays(() => {
    collect();
    return gone;
  }, []);
});

test("a guard that gets no timer throws, and tells nothing", async (context) => {
  const { collect } = requests(context);
  const { guard } = await life();
  const gone = [];
  assert.throws(() => guard(() => gone.push("no request")));
  await stays(() => {
    collect();
    return gone;
  }, []);
});
