// Lifetimes that the engine gives up, and objects that the platform resets, leave nothing in the isolate, wherever their code
// is just then: nobody tells them, and WebAssembly has both what waits and what is waited for.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { at, start } from "./lib/script.mjs";
import { collected } from "./lib/soak/memory.mjs";
import { serve } from "./lib/wrangler.mjs";

let server;
/** What Rust has in the isolate when nothing is under way. */
let atRest;
before(async () => {
  server = await serve({ collects: true });
  // Relays take a minute to leave memory, and here they would count.
  const ways = Object.keys(WAYS).filter((way) => way !== "crowded");
  for (const way of ways) await each(way, `warm-${way}`, 6);
  await new Promise((resolve) => setTimeout(resolve, EVICTED_MS));
  atRest = (await collected(server.url)).live;
});
after(() => server?.stop());

/** An object that nobody asks is out of memory after ten seconds. */
const EVICTED_MS = 12_000;
const SIZE = 60_000;
const OPS = [
  { do: { name: "flaky", attempts: [{ fail: "not yet" }], retries: { limit: 3, delay: 10, backoff: "constant" } } },
  { group: { name: "part", ops: [{ do: { name: "inner", progress: [25, 75] } }, { do: { name: "first" } }] } },
  { sleep: { name: "nap", ms: 300 } },
  { do: { name: "first", attributes: { blob: "x".repeat(SIZE) } } },
  { many: { name: "many", steps: 20, bytes: 500 } },
  { wait: { name: "answer", type: "go" } },
  { do: { name: "last" } },
];

/** Returns once the code of a run waits. */
async function waits(run) {
  const viewer = await run.open();
  await viewer.until(at("started", "answer-1.waitForEvent"));
  viewer.close();
}

async function goesOn(run) {
  await waits(run);
  await run.event("go");
  assert.equal((await run.ended()).state, "complete");
}

/** A different moment for each number: among steps, attempts, a sleep and a wait. */
const aMoment = (number) => new Promise((resolve) => setTimeout(resolve, 60 * (number % 13)));

/** Ends a lifetime of a run whose code is somewhere. */
const WAYS = {
  async terminated(run, number) {
    await aMoment(number);
    await run.act("end");
  },
  async restarted(run, number) {
    await aMoment(number);
    await run.act("again");
    await goesOn(run);
  },
  async paused(run, number) {
    await aMoment(number);
    await run.pause();
    await run.resume();
    await goesOn(run);
  },
  /** Their objects are reset, with the streams of viewers. */
  async watched(run) {
    await waits(run);
    const viewers = await Promise.all(Array.from({ length: 8 }, () => run.open()));
    await fetch(`${run.url}/rpc/go_down`, { method: "POST" }).then((response) => response.text());
    for (const viewer of viewers) viewer.close();
    await goesOn(run);
  },
  /** Twelve viewers need relays below relays. One object of the tree is reset, or none. */
  async crowded(run, number) {
    await waits(run);
    const viewers = [];
    for (let count = 0; count < 12; count += 1) viewers.push(await run.open());
    const reset = ["", "~1", "~3", undefined][number % 4];
    if (reset !== undefined) {
      // It may be answered no more.
      await fetch(`${run.url}${reset}/rpc/go_down`, { method: "POST" }).then((response) => response.text(), () => {});
    }
    await run.event("go");
    assert.equal((await run.ended()).state, "complete");
    for (const viewer of viewers) viewer.close();
  },
};

const WORKFLOWS = { watched: "fragile", crowded: "crowd" };

/** Does this with so many runs, of which a few are under way at a time: then their requests end in each other's turns. */
async function each(way, name, times) {
  let next = 0;
  const one = async () => {
    while (next < times) {
      const number = next++;
      await WAYS[way](await start(server, OPS, { id: `${name}-${number}`, workflow: WORKFLOWS[way] ?? "alpha" }), number);
    }
  };
  await Promise.all(Array.from({ length: 6 }, one));
}

for (const way of Object.keys(WAYS)) {
  test(`what runs that are ${way} have is freed wherever they are, and others go on`, { timeout: 300_000 }, async () => {
    const others = await Promise.all(["one", "two", "three"].map((id) => start(server, OPS, { id: `${way}-${id}` })));
    await Promise.all(others.map(waits));
    await each(way, way, 39);
    await Promise.all(others.map(goesOn));
    // What one lifetime has is more, since its step's attribute alone is.
    let grown;
    for (const until = Date.now() + 5 * EVICTED_MS; ; ) {
      grown = (await collected(server.url)).live - atRest;
      if (grown < SIZE || Date.now() > until) break;
    }
    assert.ok(grown < SIZE, `39 runs leave ${grown} bytes`);
    // An attempt's own error is there, too.
    const wrong = server.log.match(/.*(?:panicked|RuntimeError|already dropped|previous WASM instance).*/)?.[0];
    assert.equal(wrong, undefined);
  });
}
