// A log that fails, hangs or returns nonsense costs the workflow only the documented waits: one
// second before its first sleep or wait, and ten at the end.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { EventSource } from "eventsource";
import { harness } from "./lib/harness.mjs";
import { start } from "./lib/script.mjs";

const WAIT_TIMEOUT = 1_000;
const END_TIMEOUT = 10_000;
const SLACK = 30_000; // for a slow machine

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

const ops = [
  { do: { name: "a", progress: [1, 2], value: 1 } },
  { do: { name: "b", attempts: [{ fail: "no" }], retries: { limit: 1, delay: 10, backoff: "constant" } } },
  { sleep: { name: "s", ms: 50 } },
  { group: { name: "g", ops: [{ do: { name: "c" } }] } },
  { wait: { name: "w", type: "go" } },
  { do: { name: "d" } },
];
const failing = [{ do: { name: "a", attempts: [{ fail: "enough" }], retries: { limit: 0, delay: 0, backoff: "constant" } } }];

/** Returns the platform's outcome of a run, and its duration. */
async function result(run) {
  const { state, output, error } = await run.ended();
  const log = await run.platform();
  const took = log.at(-1).timestamp - log.find(({ type }) => type === "workflow_running").timestamp;
  const steps = log.map(({ type, stepName, attempt }) => [type, stepName, attempt]);
  return { took, same: { state, error, outputs: output?.outputs, steps } };
}

describe("the run is the same as without events", { concurrency: true }, () => {
  for (const [way, what] of Object.entries({
    throws: "cannot be opened",
    hangs: "is never opened",
    panics: "panics",
    nonsense: "opens as nonsense",
    unappendable: "takes no events",
    unending: "takes events for ever",
  })) {
    test(`with a log that ${what}`, async () => {
      const broken = await start(server, ops, { workflow: "broken", id: `${way}-1` });
      const unwrapped = await start(server, ops, { id: `${way}-2`, wrapped: false });
      for (const run of [broken, unwrapped]) await run.event("go", { x: 1 });
      const [actual, expected] = await Promise.all([result(broken), result(unwrapped)]);
      assert.deepEqual(actual.same, expected.same);
      assert.equal(actual.same.state, "complete");
      assert.ok(actual.took < expected.took + WAIT_TIMEOUT + END_TIMEOUT + SLACK, `${actual.took} ms`);
    });
  }

  test("also when it fails", async () => {
    const broken = await start(server, failing, { workflow: "broken", id: "throws-3" });
    const unwrapped = await start(server, failing, { wrapped: false });
    const [actual, expected] = await Promise.all([result(broken), result(unwrapped)]);
    assert.deepEqual(actual.same, expected.same);
    assert.deepEqual(actual.same.error, { name: "Error", message: "enough" });
  });
});

test("a viewer of a log that fails is asked to come back, and an EventSource does", async () => {
  const run = await start(server, [{ sleep: { name: "s", ms: 1 } }], { workflow: "broken", id: "throws-4" });
  const response = await fetch(run.sse);
  assert.equal(response.status, 503);
  assert.match(response.headers.get("retry-after"), /^\d+$/);
  assert.equal(await response.text(), "the events cannot be reached, try again later\n");

  // Any status but 200 would end it for good. A position that it has does not change.
  const began = performance.now();
  const headers = { accept: "text/event-stream", "last-event-id": "3" };
  const held = await fetch(run.sse, { headers });
  assert.deepEqual([held.status, held.headers.get("content-type")], [200, "text/event-stream"]);
  const reader = held.body.getReader();
  assert.equal(Buffer.from((await reader.read()).value).toString(), ":\n");
  await assert.rejects(reader.read(), "its end would be that of the events for some clients");
  const waited = performance.now() - began;
  assert.ok(waited > 1_000 && waited < 3_000 + SLACK, `${waited} ms`);
  const head = await fetch(run.sse, { method: "HEAD", headers });
  assert.deepEqual([head.status, await head.text()], [200, ""]);

  const source = new EventSource(run.sse);
  let opened = 0;
  await new Promise((resolve, reject) => {
    source.addEventListener("open", () => (opened += 1) === 2 && resolve());
    source.addEventListener("error", () => source.readyState === EventSource.CLOSED && reject(new Error("it gave up")));
  });
  source.close();
  await run.ended();
});
