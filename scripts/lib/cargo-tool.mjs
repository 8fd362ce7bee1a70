// Programs for cargo that are seldom needed: pinned, and installed into .tools when they are.
import { existsSync } from "node:fs";
import path from "node:path";
import { Failure, at, run } from "./run.mjs";

/** What is installed, each with its lock file. */
const VERSIONS = {
  "cargo-deny": "0.20.2",
  "cargo-fuzz": "0.13.2",
  "cargo-sbom": "0.10.0",
};

/** Returns the program's path. The first call for a version builds it, which takes minutes. */
export async function cargoTool(name) {
  const version = VERSIONS[name];
  const folder = at(".tools", `${name}-${version}`);
  const program = path.join(folder, "bin", name);
  if (!existsSync(program)) {
    const { ok } = await run(name, "cargo", ["install", name, "--version", version, "--locked", "--root", folder], { quiet: true });
    if (!ok) throw new Failure(`${name} could not be installed.`);
  }
  return program;
}
