// The crate of the README, with the native test of the guide, as a reader makes it.
import { appendFile, copyFile, mkdir, mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Failure, at, root } from "./run.mjs";

/** Writes it to a new folder outside the repository; resolves to the folder, whose parent is new, too. */
export async function readmeCrate() {
  const folder = path.join(await mkdtemp(path.join(tmpdir(), "ssetarget-readme-")), "greeting");
  const texts = await Promise.all(["README.md", "docs/workflows.md"].map((file) => readFile(at(file), "utf8")));
  const blocks = texts.flatMap((text) => [...text.matchAll(/<!-- readme-test: (\S+) -->\n```\S+\n(.*?)```\n/gs)]);
  const names = blocks.map(([, name]) => name);
  if (`${names}` !== `${FILES}`) throw new Failure(`README.md and docs/workflows.md have ${names}, not ${FILES}.`);
  for (const [, name, text] of blocks) {
    const file = path.join(folder, name);
    await mkdir(path.dirname(file), { recursive: true });
    await appendFile(file, text.replaceAll('"../ssetarget', JSON.stringify(root).slice(0, -1)));
  }
  // The versions that the tools at hand fit; cargo and worker-build fetch those that fit by themselves.
  await copyFile(at("Cargo.lock"), path.join(folder, "Cargo.lock"));
  return folder;
}

const FILES = ["Cargo.toml", "wrangler.toml", "src/lib.rs", "src/lib.rs"];
