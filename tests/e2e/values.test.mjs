// Values between Rust and JavaScript, and those that are refused: tests/values.rs on the real
// engine. The test Worker is built with serde_json's features that change how values are read and
// written.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { Run, json, lines, start } from "./lib/script.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

test("values of all forms come back from a step as they were", async () => {
  for (const wrapped of [true, false]) {
    const { state, output } = await (await start(server, ["values"], { wrapped })).ended();
    assert.equal(state, "complete");
    assert.deepEqual(output.outputs, [{}]);
  }
});

describe("a result that cannot cross fails the step at its first attempt, with the reason", () => {
  const cases = {
    integer: /cannot be stored: an integer beyond 2\^53.* \(at \.ids\[1\]\)$/,
    depth: /cannot be stored: it has more than 127 arrays and objects inside one another/,
    size: /cannot be stored: it is larger than 1 MiB as JSON.*ByteStream/,
    keys: /cannot be stored: a map's key is neither text/,
  };
  for (const [what, reason] of Object.entries(cases)) {
    test(what, async () => {
      const run = await start(server, [{ refused: what }]);
      const { state, error } = await run.ended();
      assert.equal(state, "errored");
      assert.match(error.message, reason);
      const events = await run.readAll();
      assert.deepEqual(events.map(({ type, json }) => `${type} ${json.taskId} ${json.attempt ?? ""}`), [
        "started alpha-1.workflow ",
        "started refused-1 ",
        "attempt_failed refused-1 1",
        "failed refused-1 1",
        "failed alpha-1.workflow ",
      ]);
      for (const { json } of events.slice(2)) assert.match(json.error, reason);
      const platform = await run.platform();
      assert.equal(platform.filter(({ type }) => type === "attempt_started").length, 1);
    });
  }
});

describe("params from another Worker are read as JSON", () => {
  const cases = { date: "1970-01-01T00:00:00.000Z", nan: null, half: "\ufffd", word: "word" };
  for (const [what, value] of Object.entries(cases)) {
    test(what, async () => {
      const { id } = await json(`${server.url}/alpha/javascript/${what}`, { method: "POST" });
      const { state, output } = await new Run(server, "alpha", id).ended();
      assert.equal(state, "complete");
      // A step whose value is `null` returns the same as one without a value.
      if (value !== null) assert.deepEqual(output.outputs, [value]);
    });
  }
});

describe("params that the workflow does not take fail the run, and the library notifies its viewers", () => {
  const refused = "the instance's params are not of the workflow's type";

  async function isTold(id, reason) {
    const run = new Run(server, "alpha", id);
    const { state, error } = await run.ended();
    assert.equal(state, "errored");
    assert.match(error.message, reason);
    // This check comes before any request, because a viewer's request would find the end in the
    // instance's status.
    const [{ events }] = await server.sql("WorkflowEvents", `alpha/${id}`, "SELECT count(*) AS events FROM events");
    assert.equal(events, 2);
    const [started, failed] = await run.readAll();
    assert.equal(started.type, "started");
    assert.equal(failed.type, "failed");
    assert.match(failed.json.error, reason);
  }

  test("a property of another type", async () => {
    const { id } = await json(`${server.url}/alpha`, { method: "POST", body: JSON.stringify({ params: { ops: 5 } }) });
    await isTold(id, new RegExp(`${refused}: found integer, expected a sequence \\(at \\.ops\\)$`));
  });

  test("a BigInt", async () => {
    const { id } = await json(`${server.url}/alpha/javascript/bigint`, { method: "POST" });
    await isTold(id, new RegExp(`${refused}: it has a BigInt`));
  });

  test("more levels than can be read", async () => {
    const { id } = await json(`${server.url}/alpha/javascript/deep`, { method: "POST" });
    await isTold(id, new RegExp(`${refused}: it has more than 127 arrays`));
  });
});

test("an output that cannot be stored fails the run before viewers see it completed", async () => {
  const run = await start(server, ["refusedOutput"]);
  const { state, error } = await run.ended();
  assert.equal(state, "errored");
  assert.match(error.message, /^the run's output cannot be stored: an integer beyond 2\^53/);
  const events = await run.readAll();
  assert.deepEqual(events.map(({ type }) => type), ["started", "failed"]);
});

test("params and payloads that cannot cross are refused where they are sent", async () => {
  const params = { ops: [{ do: { name: "a", value: "x".repeat(1 << 20) } }] };
  const response = await fetch(`${server.url}/alpha`, { method: "POST", body: JSON.stringify({ params }) });
  const { kind, message } = await response.json();
  assert.equal(kind, "Value");
  assert.match(message, /^the params cannot be sent: it is larger than 1 MiB/);

  const run = await start(server, [{ wait: { name: "w", type: "go" } }]);
  const event = { type: "go", payload: { id: 1, other: "x".repeat(1 << 20) } };
  const refused = await fetch(`${run.url}/event`, { method: "POST", body: JSON.stringify(event) });
  assert.match(await refused.text(), /the payload cannot be sent: it is larger than 1 MiB/);
  await run.event("go", 1);
  assert.equal((await run.ended()).state, "complete");
});

test("the error of a payload of another type names its place", async () => {
  const run = await start(server, [{ waitNumber: { name: "w" } }]);
  await run.event("number", { secret: "abc" });
  const { state, error } = await run.ended();
  assert.equal(state, "errored");
  assert.equal(error.message, 'the event that "w" waited for has another payload: found map, expected u32');
  assert.deepEqual(lines(await run.readAll()).at(-1), `4 failed alpha-1.workflow (${error.message})`);
});
