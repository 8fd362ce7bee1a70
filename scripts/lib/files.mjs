// Compares the tables of files in ARCHITECTURE.md with the files of the crates.
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import path from "node:path";
import { at } from "./run.mjs";

const CRATES = ["src", "cloudflare-workflows/src", "ssetarget-cli/src"];

/** Returns the differences, as lines of text. */
export function wrongFiles() {
  const listed = filesOf(readFileSync(at("ARCHITECTURE.md"), "utf8"));
  const there = CRATES.flatMap((folder) => readdirSync(at(folder), { recursive: true }).map((name) => path.join(folder, name)))
    .filter((file) => statSync(at(file)).isFile())
    .map((file) => file.replaceAll(path.sep, "/"));
  return [
    ...there.filter((file) => !listed.includes(file)).map((file) => `ARCHITECTURE.md has no line for ${file}.`),
    ...listed.filter((file) => !existsSync(at(file))).map((file) => `ARCHITECTURE.md has a line for ${file}, which is not there.`),
    ...listed.filter((file, index) => listed.indexOf(file) < index).map((file) => `ARCHITECTURE.md has ${file} twice.`),
  ];
}

/** The files in the first columns, under the folder that a line like "In `src/store`." names. */
function filesOf(text) {
  const tables = text.match(/<!-- files -->(.*)<!-- \/files -->/s)[1].split("\n");
  let folder = "";
  return tables.flatMap((line) => {
    folder = line.match(/^In `([^`]+)`/)?.[1] ?? folder;
    const names = line.match(/^\| (`[^|]+) \|/)?.[1] ?? "";
    return [...names.matchAll(/`([^`]+)`/g)].map(([, name]) => `${folder}/${name}`);
  });
}
