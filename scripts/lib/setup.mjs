// Installs everything that the other scripts need and a fresh clone lacks. All of it but the Rust toolchains goes
// into git-ignored folders of this repository.
import { existsSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { TARGETS, fetchReleased, wasmBindgenRelease } from "./released.mjs";
import { Failure, at, capture, run } from "./run.mjs";

const WORKER_BUILD = "0.8.7";
const NODE_MINIMUM = [22, 12]; // what wrangler asks for

/** Installs the npm packages if node_modules does not match package-lock.json. */
export async function ensureNodeModules() {
  if (nodeModulesMatch()) return;
  console.log("Installing npm packages (about 20 s)");
  const args = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
  // npm must not run on the Node inside the folder that it is about to delete.
  const env = { ...process.env, PATH: pathWithout(at("node_modules")) };
  await must(run("npm ci", "npm", args, { env, quiet: true }), "npm ci failed.");
}

/**
 * The environment for wrangler, worker-build and the e2e tests: a Node that
 * wrangler accepts and the npm programs come first on the PATH.
 */
export function nodeEnv(extra = {}) {
  const bins = [path.dirname(modernNode()), at("node_modules/.bin")];
  return {
    ...process.env,
    PATH: [...bins, process.env.PATH].join(path.delimiter),
    WRANGLER_SEND_METRICS: "false",
    WRANGLER_HIDE_BANNER: "true", // also skips the look-up of newer versions
    CLOUDFLARE_CF_FETCH_ENABLED: "false", // no request for a sample of `request.cf`
    ...extra,
  };
}

/** The running Node if it is new enough, otherwise the one from node_modules. */
export function modernNode() {
  if (newEnough(process.versions.node)) return process.execPath;
  // Not node_modules/.bin/node: npm 10 makes no link when several packages could give it.
  const installed = ["node", "node-bin"].map((prefix) => at(`node_modules/${prefix}-${process.platform}-${process.arch}/bin/node`));
  const found = installed.find((file) => existsSync(file));
  if (found) return found;
  throw new Failure(
    `wrangler needs Node ${NODE_MINIMUM.join(".")} or newer; this is ${process.versions.node}, and npm has no Node ` +
      `package for ${process.platform}-${process.arch}. Install Node 24 (nodejs.org) and try again.`,
  );
}

/** The pinned toolchain of rust-toolchain.toml. */
export async function ensureRust() {
  const file = readFileSync(at("rust-toolchain.toml"), "utf8");
  const strings = (key) => [...(file.match(`${key} = \\[(.*?)\\]`)?.[1] ?? "").matchAll(/"(.*?)"/g)].map((m) => m[1]);
  await ensureToolchain(file.match(/channel = "(.*?)"/)[1], strings("components"), strings("targets"));
}

/**
 * Installs the needs of `worker-build --panic-unwind`: the toolchain called `nightly` with
 * the sources of std, worker-build itself, and the wasm-bindgen of Cargo.lock.
 * Resolves to the paths of the two programs.
 */
export async function ensureWorkerTools() {
  await ensureToolchain("nightly", ["rust-src"], ["wasm32-unknown-unknown"]);
  const wasmBindgen = lockedVersion("wasm-bindgen");
  const tools = {
    workerBuild: await ensureProgram("worker-build", "worker-build", WORKER_BUILD, ["--locked"]),
    // Its own lock file does not resolve for 0.2.130, hence no --locked. Its features are ways to
    // do TLS, which only its test runner needs.
    wasmBindgen: await ensureProgram("wasm-bindgen-cli", "wasm-bindgen", wasmBindgen, ["--no-default-features"], releasedWasmBindgen(wasmBindgen)),
  };
  rmSync(TOOLS_TARGET, { recursive: true, force: true });
  return tools;
}

const TOOLS_TARGET = at(".tools/target");

// Both programs share one target folder, for they share dependencies, and are
// not optimised: that halves the build, and costs wasm-bindgen 0.4 s per Worker.
const FAST_BUILD = {
  CARGO_TARGET_DIR: TOOLS_TARGET,
  CARGO_PROFILE_RELEASE_OPT_LEVEL: "0",
  CARGO_PROFILE_RELEASE_LTO: "off",
  CARGO_PROFILE_RELEASE_CODEGEN_UNITS: "16",
  CARGO_PROFILE_RELEASE_DEBUG: "0",
};

/**
 * The released binary of wasm-bindgen for this machine, if its checksum is pinned: `npm run tools:pin`. worker-build
 * releases none.
 */
function releasedWasmBindgen(version) {
  const pinned = JSON.parse(readFileSync(at("scripts/lib/released.json"), "utf8"))["wasm-bindgen"];
  const target = TARGETS[`${process.platform}-${process.arch}`];
  const sha256 = pinned.version === version && pinned.checksums[target];
  return sha256 ? { ...wasmBindgenRelease(version, target), sha256 } : null;
}

async function ensureProgram(crate, program, version, flags, released = null) {
  const folder = at(".tools", `${crate}-${version}`);
  const binary = path.join(folder, "bin", program);
  if (existsSync(binary)) return binary;
  if (released && (await fetchReleased(program, released, folder))) return binary;

  console.log(`Building ${crate} ${version} into .tools (once; one to three minutes on 2 cores)`);
  const args = ["install", crate, "--version", version, "--bin", program, "--root", folder, ...flags];
  await must(
    run(`cargo install ${crate}`, "cargo", args, { env: { ...process.env, ...FAST_BUILD }, quiet: true }),
    `could not build ${crate} ${version}. It needs a C compiler, OpenSSL's headers and pkg-config; ` +
      "on Debian or Ubuntu: apt-get install build-essential libssl-dev pkg-config",
  );
  return binary;
}

async function ensureToolchain(name, components, targets) {
  const wanted = [
    ...components.map((component) => ({ kind: "component", id: component, path: COMPONENT_FILES[component] })),
    ...targets.map((target) => ({ kind: "target", id: target, path: `lib/rustlib/${target}/lib` })),
  ];
  const missing = (folder) => wanted.filter((part) => !existsSync(path.join(folder, part.path)));
  const installed = sysroot(name);
  if (installed && missing(installed).length === 0) return;

  if (capture("rustup", ["--version"]) === null) {
    throw new Failure(`Rust's ${name} toolchain is needed, and rustup to install it. Get rustup from https://rustup.rs and try again.`);
  }
  const rustup = (title, ...args) => must(run(title, "rustup", args, { quiet: true }), `could not install ${title}.`);

  if (!installed) {
    console.log(`Installing the Rust toolchain ${name} (about a minute)`);
    await rustup(`Rust ${name}`, "toolchain", "install", name, "--profile", "minimal", "--no-self-update");
  }
  // Added one by one, so that an installed toolchain is not updated.
  for (const part of missing(sysroot(name))) {
    console.log(`Adding ${part.id} to the Rust toolchain ${name}`);
    await rustup(`${part.id} for Rust ${name}`, part.kind, "add", part.id, "--toolchain", name);
  }
}

const COMPONENT_FILES = {
  clippy: "bin/cargo-clippy",
  rustfmt: "bin/rustfmt",
  "rust-src": "lib/rustlib/src/rust/library/std",
};

function sysroot(toolchain) {
  const env = { ...process.env, RUSTUP_AUTO_INSTALL: "0" };
  return capture("rustc", [`+${toolchain}`, "--print", "sysroot"], { env });
}

/** The version of a crate in Cargo.lock. */
export function lockedVersion(crate) {
  const file = at("Cargo.lock");
  const lock = existsSync(file) ? readFileSync(file, "utf8") : "";
  const version = lock.match(`name = "${crate}"\nversion = "(.*?)"`)?.[1];
  if (!version) throw new Failure(`Cargo.lock does not name ${crate}.`);
  return version;
}

// npm leaves a copy of the lock file with what it has installed. Comparing the
// two also accepts an `npm ci` run by hand, which a stamp of our own would not.
function nodeModulesMatch() {
  const installed = packages("node_modules/.package-lock.json");
  return Object.entries(packages("package-lock.json")).every(([folder, locked]) => {
    if (folder === "") return true;
    const found = installed[folder];
    return found ? found.version === locked.version : locked.optional;
  });
}

function packages(file) {
  return existsSync(at(file)) ? JSON.parse(readFileSync(at(file), "utf8")).packages : {};
}

function pathWithout(folder) {
  const parts = (process.env.PATH ?? "").split(path.delimiter);
  return parts.filter((part) => !part.startsWith(folder)).join(path.delimiter);
}

function newEnough(version) {
  const [major, minor] = version.split(".").map(Number);
  return major > NODE_MINIMUM[0] || (major === NODE_MINIMUM[0] && minor >= NODE_MINIMUM[1]);
}

async function must(running, message) {
  const { ok } = await running;
  if (!ok) throw new Failure(message);
}
