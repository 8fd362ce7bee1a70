// A run whose engine is reset: no viewer sees anything of the reset, whatever its error says.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { start } from "./lib/script.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

const ops = [{ do: { name: "a" } }, { sleep: { name: "nap", ms: 20 } }, { do: { name: "b" } }, { group: { name: "g", ops: [{ do: { name: "c" } }] } }];
const code = "Durable Object reset because its code was updated.";

const cases = {
  "a sleep, by its place": { at: "nap", text: "something else" },
  "a step, by its words": { at: "b", text: `no engine: ${code}` },
  "a step, by a flag": { at: "b", text: "internal error", flags: { retryable: true, remote: false } },
  "a step in a group": { at: "c", text: "Network connection lost." },
};

for (const [name, reset] of Object.entries(cases)) {
  for (const caught of [false, true]) {
    test(`${name}${caught ? ", whose error is caught" : ""}`, async () => {
      const all = caught ? ops.map((op) => (op.group || op.sleep || op.do?.name === "b" ? { catch: { op, rethrow: false } } : op)) : ops;
      const run = await start(server, all, { workflow: "resets", reset });
      const stream = await run.readAll();
      const { state } = await run.ended();
      assert.equal(state, "complete");
      const told = stream.map(({ type, json }) => `${type} ${json.taskId}`);
      assert.deepEqual(told, [
        "started resets-1.workflow",
        "started a-1", "completed a-1",
        "started nap-1.sleep", "completed nap-1.sleep",
        "started b-1", "completed b-1",
        "started g-1.group", "started c-1", "completed c-1", "completed g-1.group",
        "completed resets-1.workflow",
      ]);
    });
  }
}
