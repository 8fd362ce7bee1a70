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

/** Runs that wait are ended, so many. Resolves to the bytes of WebAssembly's memory then. */
async function given(up, name) {
  for (let number = 0; number < up; number += 1) {
    const run = await waiting(`${name}-${number}`);
    await run.act("terminate");
  }
  return Number(await (await fetch(`${server.url}/memory`)).text());
}

test("the code of terminated runs is freed where it waits, and that of other runs goes on", { timeout: 300_000 }, async () => {
  const others = await Promise.all(["alpha", "beta", "gamma"].map((id) => waiting(`other-${id}`)));
  const before = await given(20, "warm");
  const grown = (await given(100, "given-up")) - before;
  // When JavaScript collects is not known, so a part may still be there.
  assert.ok(grown < 50 * SIZE, `100 runs of ${SIZE} bytes each leave ${grown}`);
  for (const other of others) {
    await other.event("go");
    assert.equal((await other.ended()).state, "complete");
    const events = await other.readAll();
    assert.deepEqual(events.at(-1).json.taskId, events[0].json.taskId);
    assert.equal(events.at(-1).type, "completed");
  }
  assert.doesNotMatch(server.log, /panicked|Uncaught/);
});
