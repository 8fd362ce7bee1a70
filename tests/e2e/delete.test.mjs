// The log of a run is deleted on request: for its viewers, for later ones, and for the run itself. Also the stats of
// an object's log and viewers.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { at, lines, start } from "./lib/script.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

const OPS = [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }, { do: { name: "b" } }];
const isTold = at("started", "w-1.waitForEvent");
const OBJECTS = { alpha: "WorkflowEvents", brief: "BriefEvents", crowd: "CrowdEvents" };

const remove = (run) => fetch(`${run.url}/log`, { method: "DELETE" }).then((response) => response.json());
const stats = (run) => fetch(`${run.url}/stats`).then((response) => response.json());
const rows = (run) => server.sql(OBJECTS[run.workflow], `${run.workflow}/${run.id}`, "SELECT id, key, frame, data FROM events");
const status = (run, lastEventId) => fetch(run.sse, lastEventId ? { headers: { "last-event-id": lastEventId } } : {}).then(async (response) => {
  await response.body?.cancel();
  return response.status;
});

/** Reads the rest of the stream until it breaks off. */
async function untilCut(viewer) {
  const before = viewer.events.length;
  await assert.rejects(viewer.rest());
  return lines(viewer.events.slice(before));
}

test("the log of a run that goes on is deleted for good, and a restart is watched again", async () => {
  const run = await start(server, OPS);
  const viewers = await Promise.all([run.open(), run.open(), run.open({ lastEventId: 2 })]);
  for (const viewer of viewers) await viewer.until(isTold);
  const cuts = viewers.map(untilCut);
  assert.equal(await remove(run), true);
  assert.deepEqual(await Promise.all(cuts), [[], [], []], "nothing comes between the deletion and the cut");

  // Although the instance is there, and the platform is asked for it.
  assert.deepEqual([await status(run), await status(run, 2), await status(run, 4)], [404, 404, 404]);
  assert.deepEqual(await rows(run), [{ id: 4, key: "run/0000000001-deleted", frame: "", data: null }]);
  assert.equal(await remove(run), false);

  await run.event("go");
  assert.equal((await run.ended()).state, "complete");
  assert.equal(await status(run), 404);
  assert.equal((await rows(run)).length, 1);

  // Its ids go on, so that nobody confuses the new run with a part of the old one.
  assert.equal((await fetch(`${run.url}/again`, { method: "POST" })).status, 200);
  const again = await run.open();
  await again.until(isTold);
  await run.event("go");
  const events = await again.rest();
  assert.deepEqual(lines(events).slice(0, 2), ["5 restarted", "6 started alpha-1.workflow"]);
  const back = await run.open({ lastEventId: 2 });
  assert.deepEqual((await back.next()).json, { requested: 2, oldest: 5, head: 13 });
  await back.rest();
});

test("the log of a run that has ended is deleted, and its remaining mark goes later, but not that of a run that waits", async () => {
  const waits = await start(server, OPS, { workflow: "brief" });
  await (await waits.open()).until(isTold);
  assert.equal(await remove(waits), true);
  const run = await start(server, [{ do: { name: "a" } }], { workflow: "brief" });
  await run.readAll();
  assert.equal(await remove(run), true);
  assert.equal(await status(run), 404);
  for (;;) {
    // The object keeps the row for twenty seconds here.
    const tables = await server.sql("BriefEvents", `brief/${run.id}`, "SELECT name FROM sqlite_master WHERE name = 'events'");
    if (tables.length === 0) break;
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  assert.equal(await remove(run), false);

  // The time of this one was over before. Its next lifetime must not take the log for a new one.
  assert.deepEqual(await rows(waits), [{ id: 4, key: "run/0000000001-deleted", frame: "", data: null }]);
  await waits.event("go");
  assert.equal((await waits.ended()).state, "complete");
  assert.equal(await status(waits), 404);
  assert.equal((await rows(waits)).length, 1);
});

test("deleting an unknown log does nothing and stores nothing", async () => {
  const nobody = { url: `${server.url}/alpha/nobody`, id: "nobody" };
  assert.equal(await remove(nobody), false);
  assert.equal(await remove({ url: `${server.url}/alpha/${"x".repeat(101)}` }), false);
  const { since, ...unknown } = await stats(nobody);
  assert.ok(since > Date.now() - 60_000);
  const counts = { viewers: 0, opened: 0, appended: 0, deduplicated: 0, pages: 0, resets: 0, refused: 0, cut: 0, sent: 0 };
  const { databaseBytes, ...rest } = unknown;
  assert.deepEqual(rest, { events: 0, head: null, run: 1, ended: false, newest: null, hibernating: 0, relayed: 0, counts });
  const tables = await server.sql("WorkflowEvents", "alpha/nobody", "SELECT name FROM sqlite_master WHERE name = 'events'");
  assert.deepEqual(tables, []);
});

test("viewers at relays are cut off too", async () => {
  const run = await start(server, OPS, { workflow: "crowd" });
  const viewers = [];
  for (let viewer = 0; viewer < 9; viewer += 1) viewers.push(await run.open());
  for (const viewer of viewers) await viewer.until(isTold);
  for (;;) {
    const { relayed, counts } = await stats(run);
    if (process.env.TRANSPORT === "hibernating" || (relayed === 7 && counts.viewers === 2)) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const cuts = viewers.map((viewer) => assert.rejects(viewer.rest()));
  assert.equal(await remove(run), true);
  await Promise.all(cuts);
  for (let probe = 0; probe < 6; probe += 1) assert.equal(await status(run), 404);
  await run.event("go");
  await run.ended();
  assert.equal(await status(run), 404);
});

test("an object counts what it does", async () => {
  const run = await start(server, OPS);
  const viewers = await Promise.all([run.open(), run.open()]);
  for (const viewer of viewers) await viewer.until(isTold);
  await fetch(run.sse, { headers: { "last-event-id": 99 } }).then((response) => response.body.cancel());
  const { since, newest, databaseBytes, hibernating, counts, ...log } = await stats(run);
  assert.ok(since <= newest && newest <= Date.now() && databaseBytes > 0, JSON.stringify({ since, newest, databaseBytes }));
  assert.deepEqual(log, { events: 4, head: 4, run: 1, ended: false, relayed: 0 });
  assert.equal(hibernating, process.env.TRANSPORT === "hibernating" ? counts.viewers : 0);
  assert.ok(counts.viewers >= 2 && counts.opened === 3, JSON.stringify(counts));
  assert.ok(counts.appended === 4 && counts.resets === 1 && counts.pages >= 2, JSON.stringify(counts));
  assert.ok(counts.sent > 0 && counts.cut === 0, JSON.stringify(counts));
  await run.event("go");
  for (const viewer of viewers) await viewer.rest();
  const sent = viewers[0].bytes.length + viewers[1].bytes.length;
  for (;;) {
    const now = await stats(run);
    if (now.counts.viewers === 0) {
      assert.ok(now.ended && now.events === 8, JSON.stringify(now));
      // The Worker writes the heartbeats of hibernating viewers.
      if (process.env.TRANSPORT !== "hibernating") assert.ok(now.counts.sent >= sent, JSON.stringify(now));
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.ok(JSON.stringify(await stats(run)).length < 1_000);
});
