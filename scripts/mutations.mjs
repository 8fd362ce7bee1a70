// npm run test:mutations [-- NAME...] [-- --quick] [-- --from NAME] [-- --minutes N]: puts fixed defects back, one at a
// time, into a copy of the crate under target/, and lets the walk look for each. The list is tests/mutations.json: what
// each undoes, the seed of a walk that reaches it if few walks do (`seed`), and for places that the walk does not reach,
// another file of tests that notices (`by`).
//
// A defect is caught if a test fails. A test that does not answer has not caught it: the walk itself fails if a world
// does not come to rest. `--minutes` starts no further defect after that time. Outcomes are kept in
// target/mutations/outcomes.json; `--table` writes the latest outcome of each into docs/reliability.md.
//
// Ends with a list of what was caught; exits with 1 if a defect was not, or if its text is no longer there.
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { Failure, at, capture, main, run } from "./lib/run.mjs";
import { ensureRust } from "./lib/setup.mjs";

/** The steps of a walk: of one that looks anywhere, and of one from a seed that reaches the defect. */
const STEPS = 150_000;
const NEAR = 20_000;
/** The time for a test that may loop where it cannot count its steps. */
const SECONDS = 240;

/** Puts each of these defects back. Resolves to `[{ name, undoes, by, outcome }]`, where the outcome is "caught" or says why not. */
export async function mutations({ names = [], quick = false, seed = 1, minutes = Infinity } = {}) {
  const all = list();
  const unknown = names.filter((name) => !all.some((mutation) => mutation.name === name));
  if (unknown.length > 0) throw new Failure(`tests/mutations.json has no ${unknown.join(", ")}.`);
  const chosen = all.filter((mutation) => (names.length > 0 ? names.includes(mutation.name) : !quick || mutation.quick));
  const until = Date.now() + minutes * 60_000;
  const tree = copy();
  const built = await build(tree, "build of the copy", "walk", "runs");
  if (!built.ok) throw new Failure(`the copy does not compile:\n${built.output.slice(-4000)}`);
  for (const by of new Set(chosen.map(({ by = "walk" }) => by))) {
    const sound = await test(tree, `${by} without a fault`, { by, seed });
    if (sound.outcome !== "not caught") throw new Failure(`${by} without any fault put back: ${sound.outcome}.`);
  }
  const results = [];
  for (const mutation of chosen) {
    if (Date.now() > until) break;
    const { name, undoes, by = "walk" } = mutation;
    const result = { name, undoes, by, ...(await putBack(tree, mutation, seed)) };
    console.log(`${result.outcome === "caught" ? "✔" : "✖"} ${name}: ${result.outcome}${result.seed === undefined ? "" : `, seed ${result.seed}`}`);
    results.push(result);
    keep(result);
  }
  return results;
}

async function putBack(tree, { name, file, from, to, by = "walk", seed }, first) {
  const target = path.join(tree, file);
  const text = readFileSync(target, "utf8");
  const parts = text.split(from);
  if (parts.length !== 2) return { outcome: `its text is ${parts.length - 1} times in ${file}` };
  try {
    writeFileSync(target, parts.join(to));
    if (!(await build(tree, `${name}: build`, by)).ok) return { outcome: "does not compile" };
    if (seed !== undefined) {
      const near = await test(tree, name, { by, seed, steps: NEAR });
      if (near.outcome !== "not caught") return near;
      // A change of the walk changes what each seed does.
      console.log(`${name} is not reached from its seed ${seed} any more: give it one that does, if this says none.`);
    }
    return await test(tree, name, { by, seed: first, steps: STEPS });
  } finally {
    writeFileSync(target, text);
  }
}

function list() {
  return JSON.parse(readFileSync(at("tests/mutations.json"), "utf8"));
}

/** Returns what is wrong with the list: a defect whose text is not there once cannot be put back. */
export function wrongMutations(all = list(), read = (file) => readFileSync(at(file), "utf8")) {
  const times = ({ file, from }) => read(file).split(from).length - 1;
  const wrong = all.filter((mutation) => times(mutation) !== 1);
  return wrong.map((mutation) => `tests/mutations.json: the text of ${mutation.name} is ${times(mutation)} times in ${mutation.file}.`);
}

/** Copies the files that git knows. */
function copy() {
  const files = capture("git", ["ls-files", "-z"])?.split("\0").filter(Boolean);
  if (!files) throw new Failure("git does not tell which files there are.");
  const tree = at("target/mutations/tree");
  copyChanged(files, at("."), tree);
  return tree;
}

/**
 * Makes `to` a copy of these files of `from`. One that is the same already is left alone, and any other has the time of now:
 * cargo goes by times, and would otherwise take what it has compiled of a defect for the file that was put back since.
 */
export function copyChanged(files, from, to) {
  for (const entry of existsSync(to) ? readdirSync(to, { recursive: true, withFileTypes: true }) : []) {
    const file = path.join(entry.parentPath, entry.name);
    if (!entry.isDirectory() && !files.includes(path.relative(to, file))) rmSync(file);
  }
  for (const file of files) {
    // What a link names is copied, too.
    const [bytes, copied] = [readFileSync(path.join(from, file)), path.join(to, file)];
    if (existsSync(copied) && readFileSync(copied).equals(bytes)) continue;
    mkdirSync(path.dirname(copied), { recursive: true });
    writeFileSync(copied, bytes);
  }
}

function build(tree, title, ...tests) {
  return cargo(tree, title, ["--no-run", ...tests.flatMap(target)], {}, 3600);
}

/** The tests of a file, or those within the crate. */
function target(by) {
  return by === "lib" ? ["--lib"] : ["--test", by];
}

/** Runs a file of tests, which is built. Resolves to the outcome, and the names of the tests that failed. */
async function test(tree, title, { by, seed, steps = STEPS }) {
  const vars = { SSETARGET_WALK_SEED: String(seed), SSETARGET_WALK_STEPS: String(steps), RUST_BACKTRACE: "0" };
  const { ok, output } = await cargo(tree, title, [...target(by), ...(by === "walk" ? ["a_walk"] : [])], vars, SECONDS);
  const failed = [...output.matchAll(/^test (\S+) \.\.\. FAILED$/gm)].map(([, name]) => name);
  if (ok) return { outcome: "not caught" };
  if (/^test result: FAILED/m.test(output) && failed.length > 0) return { outcome: "caught", failed, seed: walked(output) };
  return { outcome: output.includes("test result:") ? "no test failed" : `no answer in ${SECONDS} s` };
}

function walked(output) {
  const seed = /^SSETARGET_WALK_SEED=(\d+) SSETARGET_WALK_STEPS=1 /m.exec(output)?.[1];
  return seed && Number(seed);
}

/** Runs `cargo test` in the copy. */
function cargo(tree, title, args, vars, seconds) {
  // A folder of outputs of its own: otherwise cargo would use what is compiled there for this tree.
  const env = { ...process.env, CARGO_TARGET_DIR: at("target/mutations/target"), ...vars };
  return run(title, "timeout", [String(seconds), "cargo", "test", "-p", "ssetarget", ...args], { cwd: tree, env, quiet: true, shows: false });
}

const OUTCOMES = "target/mutations/outcomes.json";

function keep(result) {
  const outcomes = existsSync(at(OUTCOMES)) ? JSON.parse(readFileSync(at(OUTCOMES), "utf8")) : {};
  outcomes[result.name] = { ...result, commit: capture("git", ["rev-parse", "--short", "HEAD"]) };
  writeFileSync(at(OUTCOMES), JSON.stringify(outcomes, null, 2));
}

/** Writes the kept outcomes into the docs: one row for each defect, also for those that were not put back. */
function writeTable() {
  const outcomes = existsSync(at(OUTCOMES)) ? JSON.parse(readFileSync(at(OUTCOMES), "utf8")) : {};
  const rows = list().map(({ name, undoes, by = "walk" }) => {
    const { outcome = "not put back", failed = [], seed } = outcomes[name] ?? {};
    const where = by !== "walk" ? failed.map((test) => `\`${by}::${test}\``).slice(0, 2).join(", ") || `\`${by}\`` : seed ? `\`walk\`, seed ${seed}` : "`walk`";
    return `| \`${name}\` | ${undoes} | ${outcome} | ${where} |`;
  });
  const caught = Object.values(outcomes).filter(({ outcome }) => outcome === "caught").length;
  const table = ["| defect | the rule that it breaks | outcome | by |", "|---|---|---|---|", ...rows, "", `${caught} of ${rows.length} are caught.`].join("\n");
  const file = at("docs/reliability.md");
  const [before, rest] = readFileSync(file, "utf8").split("<!-- mutations -->\n");
  const after = rest?.split("<!-- /mutations -->")[1];
  if (after === undefined) throw new Failure("docs/reliability.md has no place for the table.");
  writeFileSync(file, `${before}<!-- mutations -->\n${table}\n<!-- /mutations -->${after}`);
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
    const args = process.argv.slice(2);
    const value = (option) => (args.includes(option) ? args.splice(args.indexOf(option), 2)[1] : undefined);
    const [from, minutes] = [value("--from"), value("--minutes")];
    if (args.includes("--table")) return writeTable();
    await ensureRust();
    let names = args.filter((arg) => !arg.startsWith("--"));
    if (from !== undefined) {
      names = list().map(({ name }) => name);
      if (!names.includes(from)) throw new Failure(`tests/mutations.json has no ${from}.`);
      names = names.slice(names.indexOf(from));
    }
    const options = { names, quick: args.includes("--quick"), minutes: minutes === undefined ? undefined : Number(minutes) };
    if (!report(await mutations(options))) process.exitCode = 1;
  });
}
