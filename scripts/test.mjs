// npm test [-- lint | native | e2e [file...] | bench]: all checks, or one group of them.
//
// Runs everything even after a failure. Ends with what failed and why, a list of the checks and how
// long each took, and the line `N passed, N failed[, N skipped][, N flaky]`.
//
// Checks that need only cargo run beside those that build Workers and run them: one core links a Worker, and tests in
// the runtime wait most of the time. They get the processor only when the others leave it, and their output is shown
// when a check is over.
import { AsyncLocalStorage } from "node:async_hooks";
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { Failure, at, capture, isStopping, main, run as runShown } from "./lib/run.mjs";
import { buildWorker } from "./lib/build.mjs";
import { checkSize, dryRun } from "./lib/deploy.mjs";
import { nameOf, runFiles } from "./lib/e2e.mjs";
import { wrongFiles } from "./lib/files.mjs";
import { wrongTests } from "./lib/matrix.mjs";
import { wrongPackages } from "./lib/packages.mjs";
import { BESIDE_OURS, readmeCrate, workflowsReadmeCrate } from "./lib/readme.mjs";
import { wrongMutations } from "./mutations.mjs";
import { typescriptExamples } from "./lib/typescript.mjs";
import { ensureNodeModules, ensureRust, ensureWorkerTools } from "./lib/setup.mjs";

const WASM = ["--target", "wasm32-unknown-unknown"];
const CRATES = ["ssetarget", "cloudflare-workflows"];
const LIBRARIES = CRATES.flatMap((crate) => ["-p", crate]);
/** Features that bind to the runtime of Workers. */
const WASM_FEATURES = ["cloudflare", "worker"];
/** The files of tests/ about values that are written and read as JSON. */
const VALUES = ["fake_step", "instance_log", "steps", "values", "view", "workflow"];
const WORKER_PACKAGES = ["ssetarget-bench-worker", "ssetarget-demo", "ssetarget-recipes", "ssetarget-test-worker", "ssetarget-workflows-example"];
/** Workers whose logic is tested natively, too. */
const TESTED_NATIVELY = ["ssetarget-recipes", "ssetarget-workflows-example"];
/** Programs that end-to-end tests run. */
const PROGRAMS = ["ssetarget-axum-example", "ssetarget-checker", "ssetarget-cli", "ssetarget-conformance"];
/**
 * Tests that find a fault by chance, because they kill, cut and trap: what they see once is a fault. The others do the same
 * each time, so that a fault of ours fails twice. Of them, a file that fails is run once more by itself, and a pass is
 * reported as flaky: a browser or wrangler may fail on a busy machine.
 */
const ONE_TRY = ["checker", "crash", "exactly-once", "hibernation", "instance-crash", "merged", "page-show", "panic", "redis", "redis-soak", "reliability", "soak", "stalled", "steps-reset", "trap", "tree"];
/** More files than these do not fail by accident. */
const MOST_AGAIN = 3;
/** The tests that also run with the transport that is not the default: viewers must get the same. */
const FOR_EACH_TRANSPORT = ["binding-events", "browser", "clients", "crash", "demo", "exactly-once", "framing", "panic", "stalled", "trap", "viewers"];

main(async () => {
  const [group, ...names] = process.argv.slice(2);
  if (group && !(group in GROUPS)) throw new Failure(`there is no group called ${group}; choose ${Object.keys(GROUPS).join(", ")}.`);
  const started = Date.now();

  const groups = group ? [group] : Object.keys(GROUPS);
  inAll = !group;
  await attempt("setup", async () => {
    await ensureRust();
    await ensureNodeModules();
    return NOTHING_COUNTED;
  });
  const inTurn = async (some) => {
    for (const name of some) await GROUPS[name](names).catch((error) => attempt(name, () => Promise.reject(error)));
  };
  const beside = groups.filter((name) => !NEEDS_WORKERS.includes(name));
  const first = groups.filter((name) => NEEDS_WORKERS.includes(name));
  if (first.length > 0) {
    await Promise.all([
      inBackground.run(beside.length > 0, () => inTurn(beside)),
      (async () => {
        await attempt("tools", async () => {
          await ensureWorkerTools();
          return NOTHING_COUNTED;
        });
        await inTurn(first);
      })(),
    ]);
  } else {
    await inTurn(beside);
  }

  report(Date.now() - started);
});

/** Groups of checks that build Workers and run them. */
const NEEDS_WORKERS = ["e2e", "bench"];

/** Whether all groups run. */
let inAll = false;

/** Whether a check runs beside others: it then leaves them the processor and the screen. */
const inBackground = new AsyncLocalStorage();

/** Runs a program: see the other `run`. */
function run(title, command, args, options = {}) {
  if (!inBackground.getStore()) return runShown(title, command, args, options);
  return runShown(title, "nice", ["-n", "10", command, ...args], { ...options, quiet: true });
}

const GROUPS = {
  async lint() {
    await check("rustfmt", "cargo", ["fmt", "--all", "--check"]);
    await attempt("files of ARCHITECTURE.md", async () => {
      const wrong = wrongFiles();
      if (wrong.length > 0) throw new Failure(wrong.join("\n"));
      return ONE_PASSED;
    });
    await attempt("texts of tests/mutations.json", async () => {
      const wrong = wrongMutations();
      if (wrong.length > 0) throw new Failure(wrong.join("\n"));
      return ONE_PASSED;
    });
    await attempt("tests that docs/reliability.md names", async () => {
      const wrong = wrongTests();
      if (wrong.length > 0) throw new Failure(wrong.join("\n"));
      return ONE_PASSED;
    });
    await attempt("files that the packages include", async () => {
      const wrong = wrongPackages();
      if (wrong.length > 0) throw new Failure(wrong.join("\n"));
      return ONE_PASSED;
    });
    // With the glue for Workers, which a user's crate also compiles natively, for example in an editor.
    if (inAll) await lintAndBuild("clippy, native", [...NATIVE, "--all-targets", ...nativeFeatures()]);
    else await check("clippy, native", "cargo", ["clippy", ...NATIVE, "--all-targets", ...nativeFeatures(), ...DENY_WARNINGS]);
    // By its bare name: `ssetarget/cloudflare` would be the feature of the dev-dependency, and nothing for Workers would be compiled.
    await check("clippy, wasm libraries", "cargo", ["clippy", ...LIBRARIES, "--features", "cloudflare", ...WASM, ...DENY_WARNINGS]);
    // Responses for other servers, in WebAssembly that is none of Cloudflare's.
    await check("clippy, http in WebAssembly", "cargo", ["clippy", "-p", "ssetarget", "--features", "http", ...WASM, ...DENY_WARNINGS]);
    await check("clippy, Workers", "cargo", ["clippy", ...WORKER_PACKAGES.flatMap((name) => ["-p", name]), ...WASM, ...DENY_WARNINGS]);
    await check("clippy, the benchmark's Worker with runs", "cargo", ["clippy", "-p", "ssetarget-bench-worker", "--features", "runs", ...WASM, ...DENY_WARNINGS]);
    for (const crate of CRATES) {
      await check(`${crate} without features`, "cargo", ["check", "-p", crate, "--no-default-features"]);
      for (const feature of features(crate)) {
        const target = WASM_FEATURES.includes(feature) ? WASM : [];
        await check(`${crate}, only ${feature}`, "cargo", ["check", "-p", crate, "--no-default-features", "--features", feature, ...target]);
      }
    }
    const strict = { RUSTDOCFLAGS: "-D warnings" };
    for (const crate of CRATES) {
      const native = features(crate).filter((feature) => !WASM_FEATURES.includes(feature));
      const wasm = features(crate).filter((feature) => WASM_FEATURES.includes(feature));
      // By their bare names: `ssetarget/…` would be those of the dev-dependency, which has no docs.
      await check(`docs of ${crate}, native`, "cargo", ["doc", "-p", crate, "--no-deps", "--features", native.join(",")], strict);
      await check(`docs of ${crate}, wasm`, "cargo", ["doc", "-p", crate, "--no-deps", "--features", wasm.join(","), ...WASM], strict);
    }
    const tsc = ["node_modules/typescript/bin/tsc", "--noEmit", "--strict", "--exactOptionalPropertyTypes", "--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler", "--lib", "es2022,dom"];
    await check("typescript/example.ts", process.execPath, [...tsc, "typescript/example.ts"]);
    await check("the examples in TypeScript in the docs", process.execPath, [tsc[0], ...typescriptExamples()]);
  },

  async native() {
    await cargoTest("cargo test", ["--no-fail-fast", ...WITH_CLIPPY, ...NATIVE, ...nativeFeatures()]);
    // Other crates may switch these on: they change how values are written and read.
    const others = "serde_json/arbitrary_precision,serde_json/preserve_order";
    await cargoTest("with other features of serde_json", ["-p", "ssetarget", "--features", others, "--lib", ...VALUES.flatMap((file) => ["--test", file])]);
    await cargoTest("Workflows with other features of serde_json", ["-p", "cloudflare-workflows", "--features", `testing,${others}`, "--lib"]);
    await cargoTest("the README's crate, natively", ["--manifest-path", path.join(await readmeCrate(), "Cargo.toml")], BESIDE_OURS);
    await cargoTest("the crate of the README of Workflows, natively", ["--manifest-path", path.join(await workflowsReadmeCrate(), "Cargo.toml")], BESIDE_OURS);
    // A folder of its own: the flag changes every crate. No LTO: it would be most of the time.
    await cargoTest("shuttle", ["-p", "ssetarget-shuttle", "--release"], {
      RUSTFLAGS: `${process.env.RUSTFLAGS ?? ""} --cfg shuttle`.trim(),
      CARGO_TARGET_DIR: at("target/shuttle"),
      CARGO_PROFILE_RELEASE_LTO: "off",
      CARGO_PROFILE_RELEASE_CODEGEN_UNITS: "16",
    });
  },

  async e2e(names) {
    const folder = "tests/e2e";
    const files = (existsSync(at(folder)) ? readdirSync(at(folder)) : [])
      .filter((file) => file.endsWith(".test.mjs") && (names.length === 0 || names.some((name) => file.includes(name))))
      .sort()
      .map((file) => `${folder}/${file}`);
    if (files.length === 0) throw new Failure(`no file of ${folder} matches ${names.join(" or ") || "*.test.mjs"}.`);
    // A file that got another name would get a second try, or would not run with each transport.
    const gone = [...ONE_TRY, ...FOR_EACH_TRANSPORT].filter((name) => !existsSync(at(folder, `${name}.test.mjs`)));
    if (gone.length > 0) throw new Failure(`scripts/test.mjs names tests that are not there: ${gone.join(", ")}.`);

    // Tests begin as soon as what they need is there.
    const workers = later();
    const programs = later();
    const tests = e2eTests(files, { workers: workers.promise, programs: programs.promise });
    for (const worker of ["demo", "test"]) {
      await attempt(`build of the ${worker} Worker`, async () => {
        await buildWorker(worker);
        return ONE_PASSED;
      });
    }
    workers.resolve();
    await attempt("deploy, a dry run", async () => {
      checkSize(await dryRun());
      return ONE_PASSED;
    });
    // With all checks, those that the other checks build. Alone, with only the features that they need.
    const args = inAll ? [...WITH_CLIPPY, ...NATIVE, ...nativeFeatures(), "--all-targets"] : PROGRAMS.flatMap((name) => ["-p", name]);
    await check("build of the native programs", "cargo", ["build", ...args]);
    programs.resolve();
    if (inAll) await buildBench(); // while tests wait
    await tests;
  },

  /** Every scenario of the benchmark once, small: the deliveries are checked, times are not. */
  async bench() {
    await buildBench();
    await attempt("bench", async () => {
      const { ok, output } = await run("bench", process.execPath, ["bench/run.mjs", "--short"]);
      const totals = output.match(/^bench: (?<passed>\d+) passed, (?<failed>\d+) failed$/m)?.groups;
      return totals ? counted(ok, [totals]) : ONE_FAILED;
    });
  },
};

/** Builds the benchmark's Workers, once. */
const buildBench = () => (benchIsBuilt ??= attempt("build of the bench Worker", async () => {
  await buildWorker("bench");
  await buildWorker("bench-runs");
  return ONE_PASSED;
}));
let benchIsBuilt;

const NATIVE = ["--workspace", ...WORKER_PACKAGES.filter((name) => !TESTED_NATIVELY.includes(name)).flatMap((name) => ["--exclude", name])];
const DENY_WARNINGS = ["--", "-D", "warnings"];
/**
 * Clippy compiles the workspace's own crates. It says what `cargo clippy` says, and what it compiles can be run: so nothing is read
 * once by clippy and once more by the compiler, dependencies included. They are compiled as without it.
 */
const WITH_CLIPPY = ["--config", 'build.rustc-workspace-wrapper="clippy-driver"'];

/** A check that builds with clippy. It fails if there are warnings, also those of what was built before. */
function lintAndBuild(title, args) {
  return attempt(title, async () => {
    const { ok, output } = await run(title, "cargo", ["build", ...WITH_CLIPPY, ...args]);
    // Cargo ends the warnings of each target with this line.
    if (ok && !/^warning: .* generated \d+ warnings?/m.test(output)) return ONE_PASSED;
    return { ...ONE_FAILED, why: lines(output, /^(warning|error)/) };
  });
}

/** A check passes or fails as a whole. */
function check(title, command, args, env = {}) {
  return attempt(title, async () => {
    const { ok } = await run(title, command, args, { env: { ...process.env, ...env } });
    return ok ? ONE_PASSED : ONE_FAILED;
  });
}

function cargoTest(title, args, env = {}) {
  return attempt(title, async () => {
    const { ok, output } = await run(title, "cargo", ["test", ...args], { env: { ...process.env, ...env } });
    const totals = /^test result: \w+\. (?<passed>\d+) passed; (?<failed>\d+) failed; (?<skipped>\d+) ignored/gm;
    return { ...counted(ok, [...output.matchAll(totals)].map((match) => match.groups)), why: ok ? "" : lines(output, /^(---- .* stdout ----|error(\[|:)|test .* FAILED)/) };
  });
}

/** Runs files of end-to-end tests, some of them with both transports, and reports them as two checks. */
async function e2eTests(files, { workers, programs }) {
  const checks = [
    { title: "e2e", files, vars: {} },
    { title: "e2e, hibernating", files: files.filter((file) => isNamed(file, FOR_EACH_TRANSPORT)), vars: { TRANSPORT: "hibernating" } },
  ].filter(({ files }) => files.length > 0);
  const all = runFiles(checks.flatMap(({ title, files, vars }) => files.map((file) => ({ file, title, vars }))), { workers, programs });
  await workers;
  for (const check of checks) {
    await attempt(check.title, async () => {
      const runs = (await all).splice(0, check.files.length);
      const began = Math.min(...runs.map(({ began }) => began));
      return { ...(await e2eResult(check, runs)), seconds: seconds1(Math.max(...runs.map(({ ended }) => ended)) - began) };
    });
  }
}

/** The result of the files of a check. Those that failed run once more, if the same can be expected of them each time. */
async function e2eResult({ title, vars }, runs) {
  const took = ({ began, ended }) => ended - began;
  const longest = runs.toSorted((a, b) => took(b) - took(a)).slice(0, 10);
  console.log(`took longest: ${longest.map((each) => `${nameOf(each.file)} ${seconds1(took(each))} s`).join(", ")}`);
  const failed = runs.filter(({ ok }) => !ok);
  const why = failed.map(({ output }) => lines(output, FAILING)).join("\n");
  const result = { ...counted(true, runs.map(({ ok, output }) => counted(ok, nodeTotals(output)))), why };
  if (failed.length === 0 || failed.length > MOST_AGAIN || !failed.every(({ file, output }) => FAILING.test(output) && !isNamed(file, ONE_TRY))) return result;
  const second = await runFiles(failed.map(({ file }) => ({ file, title: `${title}, once more`, vars })));
  if (second.some(({ ok }) => !ok)) return result;
  flaky.push({ title, why });
  return { ...result, passed: result.passed + result.failed, failed: 0, flaky: result.failed };
}

const FAILING = /^✖ failing tests:/m;

function nodeTotals(output) {
  const totals = /^ℹ (?<kind>pass|fail|cancelled|skipped|todo) (?<number>\d+)$/gm;
  const names = { pass: "passed", fail: "failed", cancelled: "failed", skipped: "skipped", todo: "skipped" };
  return [...output.matchAll(totals)].map(({ groups: { kind, number } }) => ({ [names[kind]]: number }));
}

/** A promise that is resolved from outside. */
function later() {
  let resolve;
  const promise = new Promise((each) => (resolve = each));
  return { promise, resolve };
}

/** Whether a file of tests has one of the names. */
const isNamed = (file, names) => names.includes(nameOf(file));

const MOST_LINES = 60;

/** The output from the first line that `begins` what failed, to be shown again at the end of everything. */
function lines(output, begins) {
  const all = output.split("\n");
  const first = all.findIndex((line) => begins.test(line));
  const found = first < 0 ? all.slice(-MOST_LINES) : all.slice(first);
  return [...found.slice(0, MOST_LINES), ...(found.length > MOST_LINES ? [`… and ${found.length - MOST_LINES} more lines above.`] : [])].join("\n");
}

const NOTHING_COUNTED = { passed: 0, failed: 0, skipped: 0 };
const ONE_PASSED = { passed: 1, failed: 0, skipped: 0 };
const ONE_FAILED = { passed: 0, failed: 1, skipped: 0 };

/** Sums up the output of a test runner. A runner that failed without a failed test did not compile or crashed. */
function counted(ok, parts) {
  const sum = (key) => parts.reduce((total, part) => total + Number(part[key] ?? 0), 0);
  const failed = sum("failed");
  return { passed: sum("passed"), failed: failed || (ok ? 0 : 1), skipped: sum("skipped") };
}

const results = [];
/** Checks with tests that passed only when they ran once more, and why they failed. */
const flaky = [];

async function attempt(title, body) {
  if (isStopping()) throw new Failure("stopped.");
  const started = Date.now();
  if (!inBackground.getStore()) console.log(`\n── ${title} ${"─".repeat(Math.max(3, 60 - title.length))}`);
  const result = await body().catch((error) => {
    console.log(error instanceof Failure ? error.message : error.stack);
    return ONE_FAILED;
  });
  const { seconds = seconds1(Date.now() - started) } = result;
  results.push({ title, ...result, seconds });
  const counts = result === NOTHING_COUNTED ? "done" : summary(result);
  console.log(`${result.failed ? "✖" : "✔"} ${title}: ${counts} in ${seconds} s`);
}

function report(milliseconds) {
  const total = (key) => results.reduce((sum, result) => sum + (result[key] ?? 0), 0);
  const failures = results.filter((result) => result.failed > 0);
  // Once more at the end: what failed may be thousands of lines above.
  for (const { title, why } of flaky) console.log(`\n── flaky in "${title}": passed the second time only ${"─".repeat(10)}\n${why}`);
  for (const { title, why } of failures) if (why) console.log(`\n── why "${title}" failed ${"─".repeat(30)}\n${why}`);
  console.log(`\n── all checks, ${seconds1(milliseconds)} s ${"─".repeat(40)}`);
  const widest = Math.max(...results.map(({ seconds }) => seconds.length));
  for (const result of results) {
    const mark = result.failed ? "✖" : "✔";
    const counts = result.passed + result.failed > 1 || result.failed ? `: ${summary(result)}` : "";
    console.log(`${mark} ${result.seconds.padStart(widest)} s  ${result.title}${counts}`);
  }
  console.log(summary({ passed: total("passed"), failed: total("failed"), skipped: total("skipped"), flaky: total("flaky") }));
  if (failures.length > 0) process.exitCode = 1;
}

function summary({ passed, failed, skipped, flaky }) {
  return `${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ""}${flaky ? `, ${flaky} flaky` : ""}`;
}

function seconds1(milliseconds) {
  return (milliseconds / 1000).toFixed(1);
}

function features(crate = "ssetarget") {
  const metadata = JSON.parse(capture("cargo", ["metadata", "--no-deps", "--format-version", "1"]) ?? "null");
  if (!metadata) throw new Failure("cargo metadata failed; is Cargo.toml valid?");
  const library = metadata.packages.find(({ name }) => name === crate);
  return Object.keys(library.features).filter((feature) => feature !== "default");
}

function nativeFeatures(...without) {
  const names = CRATES.flatMap((crate) => features(crate).map((feature) => `${crate}/${feature}`));
  const left = [...WASM_FEATURES, ...without];
  return ["--features", names.filter((name) => !left.includes(name.split("/")[1])).join(",")];
}
