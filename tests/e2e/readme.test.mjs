// Builds and runs the README's own Worker in an empty folder outside the repository. `npm test --
// native` runs its native test.
import assert from "node:assert/strict";
import { readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";

import { README_GZIP_AT_MOST, README_WITHOUT_PAGE_GZIP_AT_MOST } from "../../bench/lib/scenarios.mjs";
import { buildFolder, gzipSize } from "../../scripts/lib/build.mjs";
import { readmeCrate } from "../../scripts/lib/readme.mjs";
import { at } from "../../scripts/lib/run.mjs";
import { readAll } from "./lib/sse.mjs";
import { serve } from "./lib/wrangler.mjs";

let folder;
let server;

before(async () => {
  folder = await readmeCrate();
  await buildFolder(folder, { CARGO_TARGET_DIR: at("target") });
  server = await serve({ folder });
});

after(async () => {
  await server?.stop();
  if (folder) await rm(path.dirname(folder), { recursive: true, force: true });
});

test("the Worker of the README runs its workflow and streams it", async () => {
  const started = await fetch(server.url, { method: "POST" });
  assert.equal(started.status, 200);
  const id = await started.text();

  const events = await readAll(`${server.url}/${id}/sse`);
  assert.deepEqual(events.map(({ type, json }) => `${type} ${json.taskId}`), [
    "started greeting-1.workflow",
    "started write-1",
    "completed write-1",
    "started think-1.sleep",
    "completed think-1.sleep",
    "started send-1",
    "completed send-1",
    "completed greeting-1.workflow",
  ]);

  const again = await fetch(`${server.url}/${id}/sse`, { headers: { "last-event-id": "8" } });
  assert.equal(again.status, 204);

  const page = await fetch(`${server.url}/${id}`, { headers: { accept: "text/html" } });
  assert.equal(page.status, 200);
  assert.match(await page.text(), /<workflow-run /);
  const snapshot = await fetch(`${server.url}/${id}`, { headers: { accept: "application/json" } });
  assert.equal((await snapshot.json()).state, "completed");
});

test("the Worker of the README is small, with the page and without", { timeout: 900_000 }, async (context) => {
  const withPage = gzipSize(folder);
  assert.ok(withPage <= README_GZIP_AT_MOST, `${withPage} bytes after gzip`);

  const code = path.join(folder, "src/lib.rs");
  const text = await readFile(code, "utf8");
  assert.ok(text.includes(".page().snapshots()"));
  await writeFile(code, text.replace(".page().snapshots()", ""));
  const manifest = path.join(folder, "Cargo.toml");
  const features = await readFile(manifest, "utf8");
  assert.ok(features.includes(', "snapshots"'));
  await writeFile(manifest, features.replace(', "snapshots"', ""));
  // Not under the running server.
  await server.stop();
  server = undefined;
  await buildFolder(folder, { CARGO_TARGET_DIR: at("target") });
  const without = gzipSize(folder);
  context.diagnostic(`${withPage} bytes after gzip with the page, ${without} without`);
  assert.ok(without <= README_WITHOUT_PAGE_GZIP_AT_MOST, `${without} bytes after gzip`);
  assert.ok(without < withPage - 25_000, "the page's files are in a Worker that does not serve it");
});
