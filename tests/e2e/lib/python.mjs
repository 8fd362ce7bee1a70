// Python with packages of its own, for checks by implementations that share no code with ours.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

import { at } from "../../../scripts/lib/run.mjs";

/**
 * Installs packages into a folder of this repository, unless they are there. Returns `{ skip, python }`: `skip` is
 * false or the reason why there is no Python, which fails the tests where `CI` is set, and `python(code, input)`
 * runs code and returns what it prints.
 */
export function withPackages(name, ...packages) {
  const folder = at(".tools", `python-${name}`);
  const run = (args, options = {}) => spawnSync("python3", args, { encoding: "utf8", timeout: 120_000, maxBuffer: 1 << 26, ...options });
  const env = { ...process.env, PYTHONPATH: folder, PYTHONDONTWRITEBYTECODE: "1" };
  let reason = run(["--version"]).status === 0 ? null : "there is no `python3` on the PATH";
  if (!reason && !existsSync(folder)) {
    const installed = run(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", folder, ...packages]);
    if (installed.status !== 0) reason = `pip cannot install ${packages.join(" ")}: ${installed.stderr}`;
  }
  if (reason) console.log(`\n!!! The checks with Python are SKIPPED: ${reason}\n`);
  return {
    skip: reason !== null && !process.env.CI && reason,
    python(code, input) {
      const { status, stdout, stderr } = run(["-c", code], { input, env });
      if (status !== 0) throw new Error(`python3 ended with ${status}:\n${stderr}`);
      return stdout;
    },
  };
}
