// Lifetimes that the engine gives up while their code waits leave nothing in the isolate: the engine does not tell them, and
// WebAssembly has both what waits and what is waited for.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { at, start } from "./lib/script.mjs";
import { serve } from "./lib/wrangler.mjs";

let server;
before(async () => {
  server = await serve();
});
after(() => server?.stop());

const SIZE = 100_000;
const OPS = [{ do: { name: "first", attributes: { blob: "x".repeat(SIZE) } } }, { wait: { name: "answer", type: "go" } }, { do: { name: "last" } }];

/** Starts a run, and returns it once its code waits. */
async function waiting(id) {
  const run = await start(server, OPS, { id });
  const viewer = await run.open();
  await viewer.until(at("started", "answer-1.waitForEvent"));
  viewer.close();
  return run;
}

const memory = async () => Number(await (await fetch(`${server.url}/memory`)).text());

/** Ends the lifetimes of so many runs while they wait. */
const WAYS = {
  async terminated(times, name) {
    for (let number = 0; number < times; number += 1) {
      const run = await waiting(`${name}-${number}`);
      await run.act("terminate");
    }
  },
  async restarted(times, name) {
    const run = await waiting(name);
    for (let number = 0; number < times; number += 1) {
      await run.act("again");
      const viewer = await run.open();
      await viewer.until((event) => event.type === "restarted" && event.json.run === number + 2);
      await viewer.until(at("started", "answer-1.waitForEvent"));
      viewer.close();
    }
  },
};

for (const [way, give] of Object.entries(WAYS)) {
  test(`the code of runs that are ${way} is freed where it waits, and that of others goes on`, { timeout: 300_000 }, async () => {
    const others = await Promise.all(["alpha", "beta", "gamma"].map((id) => waiting(`${way}-${id}`)));
    await give(20, `${way}-warm`);
    const before = await memory();
    await give(100, way);
    const grown = (await memory()) - before;
    // When JavaScript collects is not known, so a part may still be there.
    assert.ok(grown < 50 * SIZE, `100 runs of ${SIZE} bytes each leave ${grown}`);
    for (const other of others) {
      await other.event("go");
      assert.equal((await other.ended()).state, "complete");
      assert.equal((await other.readAll()).at(-1).type, "completed");
    }
    assert.doesNotMatch(server.log, /panicked|Uncaught/);
  });
}
