// The platform's own log of an instance, served by the demo, over `kill -9`: each event comes once,
// and the log is the one that plain JavaScript gets.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import * as demo from "./lib/demo.mjs";
import { Follower } from "./lib/follower.mjs";
import { Gate, start } from "./lib/script.mjs";
import { open, readAll } from "./lib/sse.mjs";
import { serve } from "./lib/wrangler.mjs";

const to = (type, stepName) => ({ type: of, json }) => of === type && (!stepName || json.stepName === stepName);

let server;
before(async () => {
  server = await serve();
});
after(() => server?.stop());

/** Follows a run of `script.mjs` through the platform's log. */
const follow = (run) =>
  new Follower({
    get sse() {
      return `${run.url}/instance`;
    },
  });

async function crash(run) {
  await server.kill();
  await server.start();
  await run.revive();
}

test("killed in mid-step, mid-sleep and mid-wait", async () => {
  const gate = new Gate(server, "crash");
  const ops = [{ do: { name: "slow", gate: gate.name } }, { sleep: { name: "nap", ms: 300 } }, { wait: { name: "w", type: "go" } }, { do: { name: "last" } }];
  const run = await start(server, ops, { wrapped: false });
  const client = follow(run);
  await client.until(to("attempt_started", "slow-1"));
  await crash(run);
  await gate.open();
  await client.until(to("sleep_started"));
  await crash(run);
  await client.until(to("wait_started"));
  await crash(run);
  await run.event("go");
  const events = await client.rest();
  await run.ended();
  const platform = await run.platform();
  const redacted = platform.map(({ params, output, ...event }) => event);
  assert.deepEqual(events.map(({ json }) => json), redacted);
  assert.deepEqual((await readAll(`${run.url}/instance`)).map(({ raw }) => raw), events.map(({ raw }) => raw));
});

test("the demo serves it", async () => {
  const server = await demo.serve();
  try {
    const id = await demo.startRun(server.url);
    const url = `${server.url}/${id}/instance/sse`;
    const live = await open(url);
    await live.until(to("wait_started"));
    await demo.answer(server.url, id);
    const events = await live.rest();
    assert.equal(events.at(-1).type, "workflow_completed");
    assert.deepEqual(events.filter(({ type }) => type === "step_started").map(({ json }) => json.stepName).sort(), [
      "charge card-1",
      "check stock-1",
      "hand to carrier-1",
      "pack parcel-1",
      "print label-1",
    ]);
    assert.doesNotMatch(events.map(({ raw }) => raw).join(""), /teapot|payment|TRACK/, "no params and no outputs");
    const { status } = await fetch(url, { headers: { "last-event-id": `${events.at(-1).id}` } });
    assert.equal(status, 204);
    assert.equal((await fetch(`${server.url}/nobody/instance/sse`)).status, 404);
    assert.equal((await fetch(url, { method: "POST" })).status, 405);
  } finally {
    await server.stop();
  }
});
