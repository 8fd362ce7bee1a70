// Makes a crate from `template/`, as a user does.
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Failure, at, capture } from "./run.mjs";

/**
 * Makes a crate of the template in a new folder outside the repository, with its dependencies from this checkout. By
 * `cargo generate` where it is installed, else by putting the same values in the same files. Returns the folder, whose
 * parent is new, too.
 */
export function generate(name) {
  const values = {
    ssetarget: `path = ${JSON.stringify(at())}`,
    workflows: `path = ${JSON.stringify(at("cloudflare-workflows"))}`,
  };
  const parent = mkdtempSync(path.join(tmpdir(), "ssetarget-template-"));
  const folder = path.join(parent, name);
  if (capture("cargo", ["generate", "--version"]) === null) substitute(folder, { "project-name": name, ...values });
  else cargoGenerate(parent, name, values);
  return folder;
}

function cargoGenerate(parent, name, values) {
  const defines = Object.entries(values).flatMap(([key, value]) => ["--define", `${key}=${value}`]);
  const args = ["generate", "--path", at("template"), "--name", name, "--destination", parent, "--silent", "--vcs", "none", ...defines];
  if (capture("cargo", args) === null) throw new Failure("cargo generate failed.");
}

function substitute(folder, values) {
  mkdirSync(folder);
  cpSync(at("template"), folder, { recursive: true });
  rmSync(path.join(folder, "cargo-generate.toml"));
  const include = readFileSync(at("template/cargo-generate.toml"), "utf8").match(/^include = (\[.*\])$/m);
  for (const file of JSON.parse(include[1])) {
    const text = readFileSync(path.join(folder, file), "utf8");
    const filled = text.replaceAll(/\{\{(.*?)\}\}/g, (_, key) => {
      if (!(key in values)) throw new Failure(`template/${file} has {{${key}}}, which has no value.`);
      return values[key];
    });
    writeFileSync(path.join(folder, file), filled);
  }
}
