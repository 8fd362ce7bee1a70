// The template becomes a crate in an empty folder outside the repository. The commands of its own README test, build
// and serve it, and a run of it is watched. Nothing is downloaded: npm's packages, cargo's, and the tools are here.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { copyFileSync, rmSync, symlinkSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";

import { BESIDE_OURS } from "../../scripts/lib/readme.mjs";
import { at } from "../../scripts/lib/run.mjs";
import { ensureWorkerTools, nodeEnv } from "../../scripts/lib/setup.mjs";
import { generate } from "../../scripts/lib/template.mjs";
import { readAll } from "./lib/sse.mjs";

const NAME = "my-runs";

let folder;
let env;
const running = new Set();

before(async () => {
  const tools = await ensureWorkerTools();
  folder = generate(NAME);
  copyFileSync(at("Cargo.lock"), path.join(folder, "Cargo.lock")); // the versions that the tools here fit
  symlinkSync(at("node_modules"), path.join(folder, "node_modules"));
  env = nodeEnv({
    ...BESIDE_OURS,
    WASM_BINDGEN_BIN: tools.wasmBindgen,
    WASM_OPT_BIN: at("node_modules/.bin/wasm-opt"),
    ESBUILD_BIN: at("node_modules/.bin/esbuild"),
    WRANGLER_REGISTRY_PATH: path.join(folder, ".wrangler/registry"),
    WRANGLER_LOG_PATH: path.join(folder, ".wrangler/logs"),
    CI: "true",
  });
  env.PATH = [path.dirname(tools.workerBuild), env.PATH].join(path.delimiter);
});

after(() => {
  running.forEach(kill);
  if (folder) rmSync(path.dirname(folder), { recursive: true, force: true, maxRetries: 5 });
});

// If the test is killed, its servers end too.
process.on("exit", () => running.forEach(kill));

test("npm test runs the workflow on the fake engine", async () => {
  const { code, output } = await npm(["test"]).ended;
  assert.equal(code, 0, output());
  assert.match(output(), /test result: ok\. 2 passed; 0 failed/);
});

test("npm start builds and serves it, and a run can be watched", { timeout: 900_000 }, async () => {
  const server = npm(["start", "--", "--ip", "127.0.0.1", "--port", "0", "--inspector-port", "0"]);
  const url = await server.until(/Ready on (http:\/\/127\.0\.0\.1:\d+)/);

  const started = await fetch(url, { method: "POST", body: JSON.stringify({ rows: 1000 }) });
  const id = await started.text();
  assert.equal(started.status, 200, id);
  const events = await readAll(`${url}/${id}/sse`);
  assert.deepEqual(events.map(({ type, json }) => `${type} ${json.taskId}`).filter((event) => !event.startsWith("progress")), [
    `started ${NAME}-1.workflow`,
    "started count the rows-1",
    "completed count the rows-1",
    "started let the disk rest-1.sleep",
    "completed let the disk rest-1.sleep",
    "started import-1",
    "completed import-1",
    `completed ${NAME}-1.workflow`,
  ]);
  const last = events.filter(({ type }) => type === "progress").at(-1);
  assert.deepEqual([last.json.percent, last.json.message], [100, "4 of 4 parts of 1000 rows"]);

  const page = await fetch(`${url}/${id}`, { headers: { accept: "text/html" } });
  assert.equal(page.status, 200);
  assert.match(await page.text(), /<workflow-run /);
  const refused = await fetch(url, { method: "POST", body: "a thousand" });
  assert.equal(refused.status, 400);
  kill(server.child);
});

/** Starts an npm script in the folder, in a process group of its own. */
function npm(args) {
  const child = spawn("npm", args, { cwd: folder, env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  let text = "";
  const output = () => text;
  const waiting = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (part) => {
      text += part;
      waiting.forEach((look) => look());
    });
  }
  const ended = new Promise((resolve) => child.once("close", (code) => resolve({ code, output })));
  const until = (pattern) =>
    new Promise((resolve, reject) => {
      waiting.push(() => text.match(pattern) && resolve(text.match(pattern)[1]));
      ended.then(({ code }) => reject(new Error(`npm ${args.join(" ")} ended with ${code}:\n${text}`)));
    });
  return { child, ended, until };
}

function kill(child) {
  if (!running.delete(child)) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // it has ended
  }
}
