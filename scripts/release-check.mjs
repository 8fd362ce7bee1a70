// npm run release:check: checks that `npm test` leaves out because they are slow and the code for them seldom
// changes. Both crates as users get them: packaged, unpacked in an empty folder, built and tested there; each feature
// alone on each target; the stated Rust version against that of every dependency; and a publication up to the upload.
// docs/release.md has the whole list.
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Failure, at, capture, main, run } from "./lib/run.mjs";
import { ensureRust } from "./lib/setup.mjs";

const WASM = "wasm32-unknown-unknown";
/** The crates in the order of publication: each needs those before it. */
const CRATES = ["cloudflare-workflows", "ssetarget"];
/** Features that are for servers. */
const NATIVE_ONLY = ["axum", "rusqlite"];
/** The dependencies of the libraries' users, without those of their tests. */
const PACKAGE_TESTS = {
  "cloudflare-workflows": ["--features", "testing"],
  ssetarget: ["--features", "axum,contract,http,links,redis,rusqlite,tracing,cloudflare-workflows/testing"],
};

main(async () => {
  await ensureRust();
  const metadata = JSON.parse(capture("cargo", ["metadata", "--format-version", "1"]) ?? "null");
  if (!metadata) throw new Failure("cargo metadata failed.");

  rustVersions(metadata);
  await features(metadata);
  await packages();
  console.log("\nBoth crates are ready to be published: docs/release.md.");
});

/** Checks that no dependency of a library needs a newer compiler than the library states. Clippy's `incompatible_msrv` checks the code. */
function rustVersions(metadata) {
  const byId = new Map(metadata.packages.map((one) => [one.id, one]));
  const nodes = new Map(metadata.resolve.nodes.map((node) => [node.id, node]));
  const seen = new Set();
  const queue = metadata.packages.filter(({ name, source }) => CRATES.includes(name) && source === null).map(({ id }) => id);
  const stated = byId.get(queue[0]).rust_version;
  while (queue.length > 0) {
    const id = queue.pop();
    if (seen.has(id)) continue;
    seen.add(id);
    for (const { pkg, dep_kinds } of nodes.get(id).deps) if (dep_kinds.some(({ kind }) => kind === null)) queue.push(pkg);
  }
  const newer = [...seen].map((id) => byId.get(id)).filter(({ rust_version }) => rust_version && isNewer(rust_version, stated));
  if (newer.length > 0) {
    const names = newer.map(({ name, version, rust_version }) => `${name} ${version} needs ${rust_version}`);
    throw new Failure(`the crates say rust-version = "${stated}", but ${names.join(", ")}.`);
  }
  console.log(`None of ${seen.size} packages needs a newer Rust than ${stated}.`);
}

function isNewer(version, than) {
  const parts = (text) => text.split(".").map(Number);
  const [a, b] = [parts(version), parts(than)];
  for (let index = 0; index < 3; index += 1) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return false;
}

/** Packages both, as for an upload, and tests them in a folder without this repository. */
async function packages() {
  const names = CRATES.flatMap((crate) => ["-p", crate]);
  // Builds each from its package, against the packages of those before it. Uploads nothing.
  await must("cargo publish --dry-run", ["publish", "--dry-run", "--allow-dirty", ...names]);
  const folder = mkdtempSync(path.join(tmpdir(), "ssetarget-release-"));
  try {
    await must("cargo package", ["package", "--no-verify", "--allow-dirty", ...names]);
    for (const file of readdirSync(at("target/package")).filter((name) => CRATES.some((crate) => new RegExp(`^${crate}-\\d[^/]*\\.crate$`).test(name)))) {
      if (capture("tar", ["-xzf", at("target/package", file), "-C", folder]) === null) throw new Failure(`tar cannot unpack ${file}.`);
    }
    const unpacked = Object.fromEntries(CRATES.map((crate) => [crate, path.join(folder, readdirSync(folder).find((name) => new RegExp(`^${crate}-\\d`).test(name)))]));
    mkdirSync(path.join(folder, "target"));
    for (const crate of CRATES) {
      const patches = CRATES.filter((other) => other !== crate).map((other) => `patch.crates-io.${other}.path=${JSON.stringify(unpacked[other])}`);
      const config = patches.flatMap((patch) => ["--config", patch]);
      // A user gets the newest versions of the dependencies, not those of our lock file.
      rmSync(path.join(unpacked[crate], "Cargo.lock"), { force: true });
      const env = { ...process.env, CARGO_TARGET_DIR: at("target/release-check") };
      await must(`tests of ${crate} from its package`, ["test", ...config, ...PACKAGE_TESTS[crate]], { cwd: unpacked[crate], env });
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function features(metadata) {
  for (const crate of CRATES) {
    const library = metadata.packages.find(({ name, source }) => name === crate && source === null);
    for (const feature of [null, ...Object.keys(library.features).filter((name) => name !== "default")]) {
      for (const target of [null, WASM]) {
        if (target === WASM && NATIVE_ONLY.includes(feature)) continue;
        const args = ["check", "-p", crate, "--no-default-features", ...(feature ? ["--features", feature] : []), ...(target ? ["--target", target] : [])];
        await must(`${crate}, ${feature ? `only ${feature}` : "no features"}${target ? ", wasm" : ""}`, args);
      }
    }
  }
}

async function must(title, args, options = {}) {
  const { ok, seconds } = await run(title, "cargo", args, { quiet: true, ...options });
  if (!ok) throw new Failure(`${title} failed.`);
  console.log(`✔ ${title} (${seconds} s)`);
}
