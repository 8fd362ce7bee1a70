// Requests for ten thousand runs that do not exist must store nothing.
import assert from "node:assert/strict";
import { existsSync, readdirSync, statSync } from "node:fs";
import path from "node:path";
import { DatabaseSync } from "node:sqlite";
import { after, before, test } from "node:test";
import { answer, isTerminal, isWaiting, serve, startRun } from "./lib/demo.mjs";
import { open } from "./lib/sse.mjs";

const PROBES = 10_000;
const CONCURRENCY = 50;

let demo;
before(async () => {
  // Uses a folder in memory if there is one: the local runtime makes files for every object it
  // wakes.
  const parent = existsSync("/dev/shm") ? "/dev/shm" : undefined;
  demo = await serve({ parent, env: { X_LOCAL_OBSERVABILITY: "false" } });
});
after(() => demo?.stop());

test("probing unknown ids stores nothing", { timeout: 600_000 }, async (context) => {
  const known = await startRun(demo.url);
  const before = await open(`${demo.url}/${known}/sse`);
  await before.until(isWaiting);

  let next = 0;
  const probe = async () => {
    while (next < PROBES) {
      const number = next++;
      // Every form of request, because a viewer who guesses ids may guess positions too.
      const [query, headers] = [["", {}], ["?from=latest", {}], ["?lastEventId=3", {}], ["", { "last-event-id": "3" }]][number % 4];
      const response = await fetch(`${demo.url}/probe-${number}/sse${query}`, { headers });
      const answered = [response.status, await response.text()];
      assert.deepEqual(answered, [404, "there is no workflow instance with this id\n"], `probe ${number}`);
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, probe));

  // The existing run goes on.
  await answer(demo.url, known);
  const after = await open(`${demo.url}/${known}/sse`, { lastEventId: before.events.at(-1).id });
  await after.until(isTerminal);

  const events = objects("do", "WorkflowEvents");
  const [logs, others] = [events.filter(({ tables }) => "events" in tables), events.filter(({ tables }) => !("events" in tables))];
  // The log of the existing run: this check would find further logs.
  assert.equal(logs.length, 1);
  assert.equal(logs[0].tables.events, after.events.at(-1).id);
  // In the remaining files Miniflare keeps the object's name in a table of its own. The library has
  // no table there.
  for (const { tables } of others) assert.deepEqual(Object.keys(tables).filter((name) => !name.startsWith("__miniflare")), []);
  // No request reached the workflow's engine, which would keep it in memory.
  assert.equal(objects("workflows", "order").length, 1);

  const size = ({ length }, bytes) => `${length} files, ${bytes} bytes`;
  const sum = (list) => list.reduce((total, { bytes }) => total + bytes, 0);
  context.diagnostic(`made by the local runtime itself: ${size(others, sum(others))} of objects without a row of ours`);
});

/** Returns the SQLite files of one kind of object: their size and the rows in each table. */
function objects(kind, name) {
  const kinds = path.join(demo.state, "v3", kind);
  const folder = path.join(kinds, readdirSync(kinds).find((entry) => entry.endsWith(name)));
  const files = readdirSync(folder).filter((file) => /^[0-9a-f]{64}\.sqlite$/.test(file));
  return files.map((file) => {
    const database = new DatabaseSync(path.join(folder, file), { readOnly: true, timeout: 30_000 });
    const names = database.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").all();
    const count = (table) => database.prepare(`SELECT count(*) AS rows FROM "${table}"`).get().rows;
    const tables = Object.fromEntries(names.map((row) => [row.name, count(row.name)]));
    database.close();
    const rows = Object.values(tables).reduce((total, number) => total + number, 0);
    return { file, tables, rows, bytes: statSync(path.join(folder, file)).size };
  });
}
