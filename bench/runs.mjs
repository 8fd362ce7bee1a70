// node bench/runs.mjs: what one index of runs takes. Reports in a second, and the first page of 10,000 runs, beside the least
// that JavaScript can do, in turns on the same machine. It uses the demo Worker's build: npm run build makes it.
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import os, { tmpdir } from "node:os";
import path from "node:path";
import { at } from "../scripts/lib/run.mjs";
import { compatibility } from "./lib/workerd.mjs";

const RUNS = 10_000;
const MEASURED = 1_000;
const TRIALS = 5;
const PAGES = 200;

const CONTESTANTS = {
  ours: (folder) => ["index.js", "index_bg.wasm"].forEach((file) => cpSync(at("examples/worker/build", file), path.join(folder, file))),
  roofline: (folder) => cpSync(at("bench/servers/index-roofline.mjs"), path.join(folder, "index.js")),
};

/** A server with this contestant and storage of its own, in memory where there is such a folder. */
async function serve(name) {
  const parent = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
  const folder = mkdtempSync(path.join(parent, "ssetarget-runs-"));
  mkdirSync(path.join(folder, "storage"));
  CONTESTANTS[name](folder);
  cpSync(at("bench/servers/index-driver.mjs"), path.join(folder, "driver.js"));
  const modules = ["driver.js", "index.js", ...(name === "ours" ? ["index_bg.wasm"] : [])];
  const listed = modules.map((file) => `(name = "${file}", ${file.endsWith(".wasm") ? "wasm" : "esModule"} = embed "${file}")`);
  const { date, flags } = compatibility();
  writeFileSync(
    path.join(folder, "config.capnp"),
    `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [ (name = "main", worker = .worker), (name = "storage", disk = (path = "${path.join(folder, "storage")}", writable = true)) ],
  sockets = [ (name = "http", address = "127.0.0.1:0", http = (), service = "main") ],
);
const worker :Workerd.Worker = (
  modules = [ ${listed.join(", ")} ],
  compatibilityDate = "${date}",
  compatibilityFlags = ${JSON.stringify(flags)},
  bindings = [ (name = "RUNS", durableObjectNamespace = "RunIndex") ],
  durableObjectNamespaces = [ (className = "RunIndex", uniqueKey = "runs", enableSql = true)${name === "ours" ? ', (className = "WorkflowEvents", uniqueKey = "events", enableSql = true)' : ""} ],
  durableObjectStorage = (localDisk = "storage"),
);
`,
  );
  const child = spawn(createRequire(at("package.json"))("workerd").default, ["serve", "--control-fd=3", path.join(folder, "config.capnp")], { stdio: ["ignore", "inherit", "inherit", "pipe"] });
  const port = await new Promise((resolve, reject) => {
    let text = "";
    child.stdio[3].setEncoding("utf8").on("data", (part) => {
      text += part;
      const found = text.match(/"socket":"http","port":(\d+)/);
      if (found) resolve(Number(found[1]));
    });
    child.once("close", (code) => reject(new Error(`workerd ended with ${code}`)));
  });
  return {
    url: `http://127.0.0.1:${port}`,
    async stop() {
      const ended = new Promise((resolve) => child.once("close", resolve));
      child.kill("SIGKILL");
      await ended;
      rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

async function asked(url, init) {
  const response = await fetch(url, init);
  const text = await response.text();
  if (!response.ok) throw new Error(`${url}: ${response.status} ${text}`);
  return text;
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const servers = {};
const results = {};
try {
  for (const name of Object.keys(CONTESTANTS)) {
    servers[name] = await serve(name);
    results[name] = { one: [], many: [], page: [] };
    await asked(`${servers[name].url}/take?from=0&count=${RUNS}&together=16`, { method: "POST" });
    const page = JSON.parse(await asked(`${servers[name].url}/list`));
    if (page.runs.length !== 100 || page.runs[0].id !== `run-00${RUNS - 1}`) throw new Error(`${name}: ${JSON.stringify(page.runs[0])}`);
  }
  for (let trial = 0; trial < TRIALS; trial += 1) {
    for (const [name, { url }] of Object.entries(servers)) {
      for (const [metric, together] of [["one", 1], ["many", 16]]) {
        const started = performance.now();
        const from = RUNS + (2 * trial + (together === 1 ? 0 : 1)) * MEASURED;
        const reports = Number(await asked(`${url}/take?from=${from}&count=${MEASURED}&together=${together}`, { method: "POST" }));
        results[name][metric].push((1000 * reports) / (performance.now() - started));
      }
      const started = performance.now();
      for (let page = 0; page < PAGES; page += 1) await asked(`${url}/list`);
      results[name].page.push((performance.now() - started) / PAGES);
    }
  }
} finally {
  for (const server of Object.values(servers)) await server.stop();
}
const row = (title, metric, digits, better) => {
  const [ours, roofline] = ["ours", "roofline"].map((name) => median(results[name][metric]));
  const ratio = better === "higher" ? ours / roofline : roofline / ours;
  console.log(`| ${title} | ${ours.toFixed(digits)} | ${roofline.toFixed(digits)} | ${ratio.toFixed(2)} |`);
};
console.log(`${os.cpus().length} × ${os.cpus()[0].model}, load ${os.loadavg()[0].toFixed(1)}; medians of ${TRIALS} rounds in turns\n`);
console.log("| an index of 10,000 runs and more | ours | roofline | ratio |\n|---|---:|---:|---:|");
row("reports, one after another, /s", "one", 0, "higher");
row("reports, 16 at a time, /s", "many", 0, "higher");
row("the first page of 100 runs, ms", "page", 2, "lower");
