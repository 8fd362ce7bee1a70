// The README's own Worker, made in an empty folder outside the repository, built and run.
import assert from "node:assert/strict";
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";

import { buildFolder } from "../../scripts/lib/build.mjs";
import { readAll } from "./lib/sse.mjs";
import { serve } from "./lib/wrangler.mjs";

const repository = path.resolve(import.meta.dirname, "../..");
let folder;
let server;

before(async () => {
  const parent = await mkdtemp(path.join(tmpdir(), "ssetarget-readme-"));
  folder = path.join(parent, "greeting");
  const readme = await readFile(path.join(repository, "README.md"), "utf8");
  const blocks = [...readme.matchAll(/<!-- readme-test: (\S+) -->\n```\S+\n(.*?)```\n/gs)];
  assert.deepEqual(blocks.map(([, name]) => name), ["Cargo.toml", "wrangler.toml", "src/lib.rs"]);
  for (const [, name, text] of blocks) {
    const file = path.join(folder, name);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, text.replace('"../ssetarget"', JSON.stringify(repository)));
  }
  // The versions that the tools at hand fit; worker-build fetches those that fit by itself.
  await copyFile(path.join(repository, "Cargo.lock"), path.join(folder, "Cargo.lock"));
  await buildFolder(folder, { CARGO_TARGET_DIR: path.join(repository, "target") });
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
    "started find out the name-1",
    "completed find out the name-1",
    "started think-1.sleep",
    "completed think-1.sleep",
    "started greet-1",
    "completed greet-1",
    "completed greeting-1.workflow",
  ]);

  const again = await fetch(`${server.url}/${id}/sse`, { headers: { "last-event-id": "8" } });
  assert.equal(again.status, 204);
});
