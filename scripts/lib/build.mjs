// Builds a Worker with worker-build, unless it is built already.
import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { Failure, at, capture, root, run } from "./run.mjs";
import { ensureNodeModules, ensureRust, ensureWorkerTools, nodeEnv } from "./setup.mjs";

/** The folder of each; of one with other features than its own, also those, and where it is built. */
export const WORKERS = {
  demo: { folder: "examples/worker" },
  test: { folder: "tests/worker" },
  bench: { folder: "bench/worker" },
  "bench-runs": { folder: "bench/worker", features: "runs", build: "build-runs" },
};

/** Resolves once `build/` of the named Worker, or the folder that it has in place of that, is up to date. */
export async function buildWorker(name) {
  await ensureNodeModules();
  await ensureRust();
  const tools = await ensureWorkerTools();

  const { folder, features, build = "build" } = WORKERS[name];
  const stamp = fingerprint(folder, tools);
  if (isBuilt(at(folder, build), stamp)) return;

  console.log(`Building the ${name} Worker (${folder}; a minute or two the first time, seconds later)`);
  await buildFolder(at(folder), {}, features ? ["--out-dir", build, ".", "--features", features] : []);
  writeFileSync(at(folder, build, STAMP), stamp);
}

/** Builds the Worker in a folder that may be anywhere, as its own developer would. */
export async function buildFolder(folder, env = {}, options = []) {
  const tools = await ensureWorkerTools();
  const name = path.basename(folder);
  const build = await run(`${name} Worker`, tools.workerBuild, ["--release", "--panic-unwind", ...options], {
    cwd: folder,
    env: nodeEnv({
      WASM_BINDGEN_BIN: tools.wasmBindgen,
      WASM_OPT_BIN: at("node_modules/.bin/wasm-opt"),
      ESBUILD_BIN: at("node_modules/.bin/esbuild"),
      ...env,
    }),
  });
  if (!build.ok) throw new Failure(`worker-build failed in ${folder}.`);
}

/** The bytes of a built Worker's modules after gzip, each on its own, as wrangler counts them. */
export function gzipSize(folder) {
  const files = ["index.js", "index_bg.wasm"].map((name) => readFileSync(path.join(folder, "build", name)));
  return files.reduce((total, file) => total + gzipSync(file).length, 0);
}

const STAMP = ".stamp";

function isBuilt(build, stamp) {
  return (
    ["index.js", "index_bg.wasm", STAMP].every((file) => existsSync(path.join(build, file))) &&
    readFileSync(path.join(build, STAMP), "utf8") === stamp
  );
}

/** A hash of everything the build reads: sources, lock file, compiler and tools. */
function fingerprint(folder, tools) {
  const hash = createHash("sha256");
  hash.update(JSON.stringify([tools, capture("rustc", ["+nightly", "--version"]), process.env.RUSTFLAGS ?? "", process.env.CARGO_PROFILE_RELEASE_STRIP ?? "", "z"]));
  hash.update(readFileSync(at("package-lock.json")));
  for (const source of ["Cargo.toml", "Cargo.lock", ".cargo", "rust-toolchain.toml", "src", "cloudflare-workflows/Cargo.toml", "cloudflare-workflows/src", folder]) {
    for (const file of files(at(source))) {
      hash.update(`\0${path.relative(root, file)}\0`).update(readFileSync(file));
    }
  }
  return hash.digest("hex");
}

function files(entry) {
  if (!existsSync(entry)) return [];
  if (!statSync(entry).isDirectory()) return [entry];
  return readdirSync(entry)
    .sort()
    .filter((name) => !["build", "build-runs", "node_modules", ".wrangler", "target"].includes(name))
    .flatMap((name) => files(path.join(entry, name)));
}
