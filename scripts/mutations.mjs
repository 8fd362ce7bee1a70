// npm run test:mutations [-- NAME...] [-- --quick]: puts fixed defects back, one at a time, into a copy of the crate
// under target/, and lets the walk look for each. The list is tests/mutations.json: it says what each undoes and, for
// places that the walk does not reach, which other file of tests has to notice (`by`).
//
// Ends with a list of the caught defects; exits with 1 if one was not caught, or if its text is no longer there.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { Failure, at, capture, main, run } from "./lib/run.mjs";
import { ensureRust } from "./lib/setup.mjs";

const STEPS = 150_000;
/** The time limit of a mutated walk, which may not end. */
const SECONDS = 240;

/** Puts each of these faults back. Resolves to `[{ name, undoes, outcome }]`, where the outcome is "caught" or says why not. */
export async function mutations({ names = [], quick = false, seed = 1 } = {}) {
  const all = JSON.parse(readFileSync(at("tests/mutations.json"), "utf8"));
  const unknown = names.filter((name) => !all.some((mutation) => mutation.name === name));
  if (unknown.length > 0) throw new Failure(`tests/mutations.json has no ${unknown.join(", ")}.`);
  const chosen = all.filter((mutation) => (names.length > 0 ? names.includes(mutation.name) : !quick || mutation.quick));
  const tree = copy();
  const built = await cargo(tree, "build of the copy", ["--no-run", "--test", "runs", "--test", "walk"], {});
  if (!built.ok) throw new Failure("the copy does not compile.");
  const sound = await test(tree, "the walk without a fault", seed);
  if (!sound.ok) throw new Failure("the walk fails without any fault put back.");
  const results = [];
  for (const { name, file, from, to, undoes, by = "walk" } of chosen) {
    const target = path.join(tree, file);
    const text = readFileSync(target, "utf8");
    const parts = text.split(from);
    let outcome;
    if (parts.length !== 2) outcome = `its text is ${parts.length - 1} times in ${file}`;
    else {
      writeFileSync(target, parts.join(to));
      const { ok, output } = await test(tree, name, seed, by);
      writeFileSync(target, text);
      outcome = ok ? "not caught" : output.includes("could not compile") ? "does not compile" : "caught";
    }
    console.log(`${outcome === "caught" ? "✔" : "✖"} ${name}: ${outcome}`);
    results.push({ name, undoes, by, outcome });
  }
  return results;
}

/** Copies the files that git knows. They keep their times, so that cargo compiles only changed ones again. */
function copy() {
  const tree = at("target/mutations/tree");
  const files = capture("git", ["ls-files", "-z"])?.split("\0").filter(Boolean);
  if (!files) throw new Failure("git does not tell which files there are.");
  rmSync(path.join(tree, "src"), { recursive: true, force: true });
  for (const file of files) {
    const to = path.join(tree, file);
    mkdirSync(path.dirname(to), { recursive: true });
    cpSync(at(file), to, { preserveTimestamps: true, dereference: true });
  }
  return tree;
}

function test(tree, title, seed, by = "walk") {
  const vars = { SSETARGET_WALK_SEED: String(seed), SSETARGET_WALK_STEPS: String(STEPS), RUST_BACKTRACE: "0" };
  return cargo(tree, title, ["--test", by, ...(by === "walk" ? ["a_walk"] : [])], vars, SECONDS);
}

/** Runs `cargo test` in the copy. */
function cargo(tree, title, args, vars, seconds = 3600) {
  // A folder of outputs of its own: otherwise cargo would use what is compiled there for this tree.
  const env = { ...process.env, CARGO_TARGET_DIR: at("target/mutations/target"), ...vars };
  return run(title, "timeout", [String(seconds), "cargo", "test", "-p", "ssetarget", ...args], { cwd: tree, env, quiet: true });
}

/** Prints what was caught. Returns whether everything was. */
export function report(results) {
  console.log("");
  for (const { name, undoes, by, outcome } of results) console.log(`${outcome === "caught" ? "✔" : "✖"} ${name}: ${undoes} (${outcome} by ${by})`);
  const caught = results.filter(({ outcome }) => outcome === "caught").length;
  console.log(`${caught} of ${results.length} faults were caught`);
  return caught === results.length;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  main(async () => {
    await ensureRust();
    const args = process.argv.slice(2);
    const names = args.filter((arg) => !arg.startsWith("--"));
    if (!report(await mutations({ names, quick: args.includes("--quick") }))) process.exitCode = 1;
  });
}
