// npm run fuzz [-- TARGET [SECONDS]]: cargo-fuzz for one target of fuzz/, or for each, 60 seconds by default. Needs
// the toolchain nightly and a C++ compiler; brings cargo-fuzz with it. fuzz/artifacts gets its findings.
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import path from "node:path";
import { Failure, at, capture, main, run } from "./lib/run.mjs";

const VERSION = "0.13.2";

main(async () => {
  const [target, seconds = "60"] = process.argv.slice(2);
  const targets = readdirSync(at("fuzz/fuzz_targets")).map((file) => file.replace(/\.rs$/, ""));
  if (target && !targets.includes(target)) throw new Failure(`there is no target called ${target}; choose ${targets.join(", ")}.`);
  if (!/^\d+$/.test(seconds)) throw new Failure(`${seconds} is no number of seconds.`);
  if (!capture("rustc", ["+nightly", "--version"])) throw new Failure("cargo-fuzz needs nightly: rustup toolchain install nightly");
  const program = await cargoFuzz();
  for (const name of target ? [target] : targets) {
    // New inputs go elsewhere: the corpora of the repository are small on purpose.
    const found = at("fuzz/target/found", name);
    mkdirSync(found, { recursive: true });
    const flags = [`-max_total_time=${seconds}`, "-rss_limit_mb=1024", "-timeout=10", "-max_len=4096", "-print_final_stats=1"];
    const args = ["+nightly", "fuzz", "run", "--fuzz-dir", at("fuzz"), name, found, at("fuzz/corpus", name), "--", ...flags];
    const env = { ...process.env, PATH: `${path.dirname(program)}${path.delimiter}${process.env.PATH}` };
    const { ok } = await run(name, "cargo", args, { env });
    if (!ok) throw new Failure(`${name}: see above, and fuzz/artifacts/${name}.`);
  }
});

async function cargoFuzz() {
  const folder = at(".tools", `cargo-fuzz-${VERSION}`);
  const program = path.join(folder, "bin/cargo-fuzz");
  if (!existsSync(program)) {
    const { ok } = await run("cargo-fuzz", "cargo", ["install", "cargo-fuzz", "--version", VERSION, "--locked", "--root", folder], { quiet: true });
    if (!ok) throw new Failure("cargo-fuzz could not be installed.");
  }
  return program;
}
