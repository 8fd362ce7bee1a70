// The types for front ends, with a real run: each event and each snapshot has its type, and no fields beyond it.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { at } from "../../scripts/lib/run.mjs";
import { answer, isWaiting, serve, startRun } from "./lib/demo.mjs";
import { open, readAll } from "./lib/sse.mjs";

let demo;
const folder = mkdtempSync(at("target/typescript-"));
before(async () => {
  demo = await serve();
});
after(async () => {
  rmSync(folder, { recursive: true, force: true });
  await demo?.stop();
});

/** Returns the compiler's messages about a file that uses the types. */
function compile(name, source) {
  const file = path.join(folder, name);
  writeFileSync(file, `import type { RunEvent, RunSnapshot } from "${at("typescript/types")}";\n${source}`);
  const options = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler"];
  const { stdout } = spawnSync(process.execPath, [at("node_modules/typescript/bin/tsc"), ...options, file], { encoding: "utf8" });
  return stdout;
}

test("a real run is of the types", { timeout: 300_000 }, async () => {
  const id = await startRun(demo.url);
  const snapshot = async () => (await fetch(`${demo.url}/${id}`, { headers: { accept: "application/json" } })).text();
  const viewer = await open(`${demo.url}/${id}/sse`);
  await viewer.until(isWaiting);
  const waiting = await snapshot();
  await answer(demo.url, id);
  const [reset, ...log] = await readAll(`${demo.url}/${id}/sse`, { lastEventId: 1_000 });
  const failed = await startRun(demo.url, { params: { workMs: 0, quantity: 0 } });
  const events = [reset, ...log, ...(await readAll(`${demo.url}/${failed}/sse`))];
  assert.deepEqual([...new Set(events.map(({ type }) => type))].toSorted(), ["attempt_failed", "completed", "failed", "progress", "reset", "started"]);

  const literals = (of) => `export const events: RunEvent[] = [${of.map(({ type, json }) => JSON.stringify({ type, data: json })).join(",\n")}];`;
  const snapshots = (...of) => `export const snapshots: RunSnapshot[] = [${of.join(",\n")}];`;
  assert.equal(compile("events.ts", literals(events)), "");
  assert.equal(compile("snapshots.ts", snapshots(waiting, await snapshot())), "");

  // The compiler does check: this must fail.
  const [first] = log;
  assert.match(compile("more.ts", literals([{ ...first, json: { ...first.json, other: 1 } }])), /other.* does not exist/);
  assert.match(compile("less.ts", literals([{ ...first, json: { ...first.json, kind: undefined } }])), /kind/);
  assert.match(compile("state.ts", snapshots(waiting.replace('"running"', '"dreaming"'))), /dreaming/);
});
