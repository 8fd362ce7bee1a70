// Released binaries of tools that would take minutes to compile, each checked against a checksum in this repository.
// If anything goes wrong, the tool is compiled instead.
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

import { at, capture } from "./run.mjs";

/** How long the host may take to answer, and then to send it all. */
const ANSWERS_WITHIN = 4_000;
const SENDS_WITHIN = 60_000;

/**
 * Puts a program from a `.tar.gz` into `folder`/bin. Resolves to whether it did; says why not.
 *
 * `release` is `{ url, sha256, inside }`: where the archive is, what it must be, and where in it the program is.
 */
export async function fetchReleased(program, { url, sha256, inside }, folder, { answersWithin = ANSWERS_WITHIN } = {}) {
  const refused = (reason) => {
    console.log(`The released ${program} is not used: ${reason}`);
    return false;
  };
  let archive;
  try {
    const abort = new AbortController();
    let timer = setTimeout(() => abort.abort(new Error("the host does not answer")), answersWithin);
    const response = await fetch(url, { signal: abort.signal });
    clearTimeout(timer);
    if (!response.ok) {
      await response.body?.cancel();
      return refused(`${url} answers ${response.status}.`);
    }
    timer = setTimeout(() => abort.abort(new Error("the host is too slow")), SENDS_WITHIN);
    archive = Buffer.from(await response.arrayBuffer()).subarray();
    clearTimeout(timer);
  } catch (error) {
    return refused(`${new URL(url).host} cannot be reached (${error.cause?.code ?? error.message}).`);
  }
  const found = createHash("sha256").update(archive).digest("hex");
  if (found !== sha256) return refused(`its checksum is ${found}, and not ${sha256}.`);

  mkdirSync(at(".tools"), { recursive: true });
  const unpacked = mkdtempSync(at(".tools", "unpack-"));
  try {
    writeFileSync(path.join(unpacked, "archive.tar.gz"), archive);
    if (capture("tar", ["-xzf", "archive.tar.gz", inside], { cwd: unpacked }) === null) return refused(`its archive has no ${inside}.`);
    const binary = path.join(unpacked, inside);
    chmodSync(binary, 0o755);
    if (capture(binary, ["--version"]) === null) return refused("it does not run on this machine.");
    mkdirSync(path.join(folder, "bin"), { recursive: true });
    // In one piece, for anybody who looks at the same time.
    renameSync(binary, path.join(folder, "bin", program));
    return true;
  } finally {
    rmSync(unpacked, { recursive: true, force: true });
  }
}

/** The targets for which wasm-bindgen's releases have a binary, by Node's names of the platform and the processor. */
export const TARGETS = {
  "linux-x64": "x86_64-unknown-linux-musl",
  "linux-arm64": "aarch64-unknown-linux-musl",
  "darwin-x64": "x86_64-apple-darwin",
  "darwin-arm64": "aarch64-apple-darwin",
};

/** The address of the release of wasm-bindgen for a target, without its checksum. */
export function wasmBindgenRelease(version, target) {
  const name = `wasm-bindgen-${version}-${target}`;
  return {
    url: `https://github.com/wasm-bindgen/wasm-bindgen/releases/download/${version}/${name}.tar.gz`,
    inside: `${name}/wasm-bindgen`,
  };
}
