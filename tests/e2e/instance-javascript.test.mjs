// A workflow in plain JavaScript, in another Worker, that does not use this library. Bound to the
// Worker in Rust, it can be watched.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { json } from "./lib/script.mjs";
import { open } from "./lib/sse.mjs";

const BINDING = `
[[workflows]]
name = "alpha-javascript"
binding = "JAVASCRIPT"
class_name = "Script"
script_name = "ssetarget-parity"
`;

let server;
before(async () => {
  server = await harness({ front: "tests/parity", config: BINDING });
});
after(() => server?.stop());

test("a workflow in JavaScript is watched from Rust", async () => {
  const call = async (body) => {
    const { ok, error } = await json(`${server.url}/javascript/alpha/call`, { method: "POST", body: JSON.stringify(body) });
    assert.equal(error, undefined);
    return ok;
  };
  const retries = { limit: 1, delay: 10, backoff: "constant" };
  const ops = [{ do: { name: "a", attempts: [{ fail: "once" }], retries, value: "secret" } }, { wait: { name: "w", type: "go" } }, { do: { name: "b" } }];
  const { id } = await call({ create: { params: { ops } } });
  const url = `${server.url}/rust/javascript/${id}/instance`;
  const live = await open(url);
  await live.until("wait_started");
  await call({ pause: id });
  await live.until("workflow_paused");
  await call({ resume: id });
  await live.until("workflow_running");
  await call({ sendEvent: { id, type: "go", payload: 1 } });
  const events = await live.rest();
  const platform = await json(`${server.url}/javascript/alpha/${id}/platform`);
  assert.equal(platform.at(-1).type, "workflow_completed");
  const redacted = platform.map(({ params, output, ...event }) => event);
  assert.deepEqual(events.map(({ json }) => json), redacted);
  const headers = { "last-event-id": `${events.at(-1).id}` };
  assert.equal((await fetch(url, { headers })).status, 204);
  assert.equal((await fetch(`${server.url}/rust/javascript/nobody/instance`)).status, 404);
});
