// The contestants: each is a Worker with a Durable Object class `WorkflowEvents`.
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { Failure, at, run } from "../../scripts/lib/run.mjs";
import { WORKERS, buildWorker } from "../../scripts/lib/build.mjs";

/** In the order of their turns. One that is `lossy` does not deliver every event to every viewer. */
export const CONTESTANTS = {
  "original-4": { title: "original 4.0.5", source: "original-4.mjs" },
  "original-2": { title: "original 2.0.1", source: "original-2.mjs", lossy: true },
  roofline: { title: "roofline", source: "roofline.mjs" },
  ours: { title: "ours", worker: "bench" },
  "ours-hibernating": { title: "ours, hibernating", worker: "bench", vars: { TRANSPORT: "hibernating" } },
};

/** What has several runs on one connection and an index of runs: for scenarios that say so, in place of a contestant. */
export const OF_RUNS = { roofline: "roofline-runs", ours: "ours-runs" };

const RUNS = {
  "roofline-runs": { title: "roofline", source: "runs-roofline.mjs", index: true },
  "ours-runs": { title: "ours", worker: "bench-runs", index: true },
};

/** Not contestants: for docs/conformance.md only. */
export const PEERS = { hono: { title: "hono's streamSSE", source: "hono.mjs" } };

/** Not a contestant: pages from memory, to see what the client and the runtime can do. */
export const STATIC = { title: "static stream", source: "static.mjs", stateless: true };

/** Builds these contestants; each has a folder of modules after that, with `rows.mjs` if it has objects. */
export async function buildContestants(names) {
  for (const name of [...names, "static"]) {
    const { source, worker, stateless, index } = contestant(name);
    const folder = modulesFolder(name);
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    if (worker) {
      await buildWorker(worker);
      const { folder: from, build = "build" } = WORKERS[worker];
      for (const file of ["index.js", "index_bg.wasm"]) cpSync(at(from, build, file), path.join(folder, file));
    } else {
      await bundle(at("bench/servers", source), path.join(folder, "index.js"));
    }
    if (!stateless) cpSync(at("bench/servers/rows.mjs"), path.join(folder, ROWS));
    if (index) cpSync(at("bench/servers/runs.mjs"), path.join(folder, REPORTS));
  }
}

export function contestant(name) {
  const found = name === "static" ? STATIC : (CONTESTANTS[name] ?? RUNS[name] ?? PEERS[name] ?? tree(name));
  if (!found) throw new Failure(`there is no contestant called ${name}; choose ${Object.keys(CONTESTANTS).join(", ")}.`);
  return found;
}

/** `tree-50-8`: ours, where an object has at most 50 viewers and 8 relays. Only if it is named. */
function tree(name) {
  const [, viewers, relays] = name.match(/^tree-(\d+)-(\d+)$/) ?? [];
  if (!viewers) return undefined;
  return { title: `ours, ${viewers} viewers and ${relays} relays an object`, worker: "bench", vars: { FAN_OUT: `${viewers}/${relays}` } };
}

const ROWS = "rows.js";
const REPORTS = "runs.js";

/** The modules that drive a contestant, of which the first one that it has is its entry. */
export const DRIVERS = [REPORTS, ROWS];

/** Where the modules of a contestant are. */
export const modulesFolder = (name) => at("target/bench", name);

/** Bytes of a contestant's modules, as they are and after gzip, each on its own as wrangler counts them. */
export function bundleSize(name) {
  const names = readdirSync(modulesFolder(name)).filter((file) => !DRIVERS.includes(file));
  const files = names.map((file) => readFileSync(path.join(modulesFolder(name), file)));
  const sum = (size) => files.reduce((total, file) => total + size(file), 0);
  return { bytes: sum((file) => file.length), gzip: sum((file) => gzipSync(file).length) };
}

async function bundle(source, target) {
  const flags = ["--bundle", "--format=esm", "--minify", "--target=es2024", "--external:cloudflare:*", "--log-level=warning"];
  const { ok } = await run("esbuild", at("node_modules/.bin/esbuild"), [source, ...flags, `--outfile=${target}`], { quiet: true });
  if (!ok) throw new Failure(`esbuild could not bundle ${source}.`);
}
