// Checks that the package of each crate has the files that its code includes. Cargo finds them in a clone also if the package
// leaves them out.
import { readFileSync } from "node:fs";
import path from "node:path";
import { Failure, at, capture } from "./run.mjs";

/** The folders of the crates that are published. */
const CRATES = { "cloudflare-workflows": "cloudflare-workflows", ssetarget: "." };

/** Returns the files that are missing, as lines of text. */
export function wrongPackages() {
  return Object.entries(CRATES).flatMap(([crate, folder]) => {
    const listed = capture("cargo", ["package", "--list", "--allow-dirty", "-p", crate])?.trim().split("\n");
    if (!listed?.includes("src/lib.rs")) throw new Failure(`cargo does not list the package of ${crate}.`);
    return listed
      .filter((file) => file.endsWith(".rs"))
      .flatMap((file) => includedBy(file, readFileSync(at(folder, file), "utf8")).map((included) => [file, included]))
      .filter(([, included]) => !listed.includes(included))
      .map(([file, included]) => `the package of ${crate} has no ${included}, which ${file} includes: add it to \`include\` in Cargo.toml.`);
  });
}

/** The files that a source file includes as text, as paths in the package. */
function includedBy(file, text) {
  return [...text.matchAll(/\binclude(?:_str|_bytes)?!\(\s*"([^"]+)"/g)].map(([, name]) => path.posix.join(path.posix.dirname(file), name));
}
