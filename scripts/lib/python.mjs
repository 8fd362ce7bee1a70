// Python packages that tests need, in a folder of this repository that git ignores.
import { createHash } from "node:crypto";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { at, capture, run } from "./run.mjs";

/**
 * Resolves to `{ python, packages }`, a Python that has the packages of a requirements file and the folder where they
 * are, or to `{ missing }`, the reason why there is none: no Python 3, or no index of packages.
 */
export async function ensurePython(requirements) {
  const file = at(requirements);
  const stamp = createHash("sha256").update(readFileSync(file)).digest("hex").slice(0, 16);
  const folder = at(".tools", `python-${stamp}`);
  const python = path.join(folder, "bin/python");
  const done = path.join(folder, ".done");
  if (!existsSync(done)) {
    if (capture("python3", ["-c", "import ensurepip, venv"]) === null) return { missing: "there is no Python 3 with venv" };
    rmSync(folder, { recursive: true, force: true });
    console.log(`Installing the Python packages of ${requirements} into .tools (once)`);
    const made = await run("python venv", "python3", ["-m", "venv", folder], { quiet: true });
    if (!made.ok) return { missing: "python3 -m venv failed" };
    const args = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--requirement", file];
    const installed = await run("pip install", python, args, { quiet: true });
    if (!installed.ok) return { missing: `pip could not install ${requirements} here` };
    writeFileSync(done, "");
  }
  return { python, packages: capture(python, ["-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]).trim() };
}
