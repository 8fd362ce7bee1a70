// The crates of the READMEs, each with its native test, as a reader makes them.
import { appendFile, copyFile, mkdir, mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Failure, at, root } from "./run.mjs";

/** The environment to build a reader's crate with what was compiled for this workspace: its folder, and its amount of debug information. */
export const BESIDE_OURS = { CARGO_TARGET_DIR: at("target"), CARGO_PROFILE_DEV_DEBUG: "line-tables-only" };

/** Writes the crate of README.md and docs/start.md to a new folder outside the repository; resolves to the folder, whose parent is new, too. */
export function readmeCrate() {
  return crateOf(["docs/start.md", "README.md", "docs/workflows.md"], ["Cargo.toml", "wrangler.toml", "src/lib.rs", "src/lib.rs"]);
}

/** The same for the README of cloudflare-workflows. */
export function workflowsReadmeCrate() {
  return crateOf(["cloudflare-workflows/README.md"], ["Cargo.toml", "wrangler.toml", "src/lib.rs"]);
}

async function crateOf(documents, files) {
  const folder = path.join(await mkdtemp(path.join(tmpdir(), "ssetarget-readme-")), "greeting");
  const texts = await Promise.all(documents.map((file) => readFile(at(file), "utf8")));
  const blocks = texts.flatMap((text) => [...text.matchAll(/<!-- readme-test: (\S+) -->\n```\S+\n(.*?)```\n/gs)]);
  const names = blocks.map(([, name]) => name);
  if (`${names}` !== `${files}`) throw new Failure(`${documents.join(" and ")} have ${names}, not ${files}.`);
  for (const [, name, text] of blocks) {
    const file = path.join(folder, name);
    await mkdir(path.dirname(file), { recursive: true });
    await appendFile(file, name === "Cargo.toml" ? withCheckout(text) : text);
  }
  // The versions that fit the installed tools. For a reader, cargo and worker-build fetch fitting
  // ones by themselves.
  await copyFile(at("Cargo.lock"), path.join(folder, "Cargo.lock"));
  return folder;
}

/** Dependencies from this checkout, in place of a path beside the reader's crate or a release. */
function withCheckout(manifest) {
  return manifest
    .replaceAll('"../ssetarget', JSON.stringify(root).slice(0, -1))
    .replaceAll('cloudflare-workflows = { version = "0.1.0"', `cloudflare-workflows = { path = ${JSON.stringify(at("cloudflare-workflows"))}`);
}
