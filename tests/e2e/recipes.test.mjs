// The Worker of examples/recipes: an agent that streams its words, and an import with a progress bar.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { buildFolder } from "../../scripts/lib/build.mjs";
import { at } from "../../scripts/lib/run.mjs";
import { readAll } from "./lib/sse.mjs";
import { serve } from "./lib/wrangler.mjs";

let server;

before(async () => {
  const folder = at("examples/recipes");
  await buildFolder(folder);
  server = await serve({ folder });
});

after(() => server?.stop());

test("the agent thinks, calls its tools, and streams its words", async () => {
  const { id, events } = await run("agents", { question: "Where is my parcel?" });
  const tasks = events.filter(({ type, json }) => type === "completed" && json.kind === "do").map(({ json }) => json.taskId);
  assert.deepEqual(tasks, ["think-1", "find parcel-1", "think-2", "estimate route-1", "think-3"]);

  const words = events.filter(({ type, json }) => type === "progress" && json.taskId === "think-3").map(({ json }) => json.message);
  assert.equal(words.at(-1), "Your parcel is in Utrecht and arrives in 2 days.");
  assert.ok(words.length > 1, "the words come one after the other");
  // Each report begins with the one before it.
  words.slice(1).forEach((later, index) => assert.ok(later.startsWith(words[index]) && later.length > words[index].length));

  const snapshot = await (await fetch(`${server.url}/agents/${id}`, { headers: { accept: "application/json" } })).json();
  assert.equal(snapshot.state, "completed");
  assert.deepEqual(snapshot.tasks[1].attributes, { input: "TRACK-1" });
});

test("the import reports its rows, and repeats a chunk that failed and no other", async () => {
  const { events } = await run("imports", { rows: 1000 });
  const percents = events.filter(({ type }) => type === "progress").map(({ json }) => json.percent);
  assert.equal(percents.at(-1), 100);
  percents.slice(1).forEach((later, index) => assert.ok(later > percents[index], `${later} after ${percents[index]}`));

  const failed = events.filter(({ type }) => type === "attempt_failed").map(({ json }) => `${json.taskId}: ${json.error}`);
  assert.deepEqual(failed, ["rows 201 to 300-1: the database is locked"]);
  const chunks = events.filter(({ type, json }) => type === "completed" && json.step.startsWith("rows "));
  assert.equal(chunks.length, 10);
  assert.ok(chunks.every(({ json }) => json.parentId === "import-1.group"));
  assert.equal(chunks.reduce((sum, { json }) => sum + json.attributes.skipped, 0), 4);
});

test("a body of another type starts nothing", async () => {
  const response = await fetch(`${server.url}/imports`, { method: "POST", body: JSON.stringify({ rows: "many" }) });
  assert.equal(response.status, 400);
  await response.body.cancel();
});

/** Starts a run, and resolves to its id and all of its events. */
async function run(path, params) {
  const started = await fetch(`${server.url}/${path}`, { method: "POST", body: JSON.stringify(params) });
  const id = await started.text();
  assert.equal(started.status, 200, id);
  return { id, events: await readAll(`${server.url}/${path}/${id}/sse`) };
}
