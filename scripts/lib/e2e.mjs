// Runs files of end-to-end tests side by side, each in a Node of its own: what takes longest begins first, and nothing begins before
// what it needs is built.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { Failure, at, isStopping, run } from "./run.mjs";
import { modernNode, nodeEnv } from "./setup.mjs";

/** How many files run at a time: most of them wait most of the time, and two cores also compile meanwhile. */
const PLACES = 4;
/** Only what hangs takes so long: a busy machine is no failure. */
const TEST_TIMEOUT_MS = 600_000;

/**
 * The files that take longest, with their seconds on two cores. What is missing here only begins later than it could; the end of
 * `npm test` says what took longest.
 */
const SECONDS = {
  stalled: 170,
  readme: 160,
  "page-show": 125,
  hibernation: 120,
  "page-everybody": 110,
  template: 110,
  recipes: 110,
  conformance: 95,
  "page-browser": 75,
  soak: 70,
  otlp: 70,
  probing: 67,
  axum: 60,
  crash: 60,
  demo: 55,
  runs: 50,
  "steps-many": 46,
  steps: 45,
  hostile: 45,
  leaving: 40,
  reconcile: 35,
  browser: 35,
  "steps-broken-log": 30,
  merged: 28,
  snapshot: 25,
  delete: 25,
};
/** Files whose tests build Workers themselves: one at a time, since cargo lets the others wait. */
const BUILDERS = ["readme", "recipes", "template"];

/** The name of a file of tests, without its folder and endings. */
export const nameOf = (file) => path.basename(file, ".test.mjs");

/**
 * Runs files of tests, and resolves to `{ file, ok, output, began, ended }` of each run, in the order of `runs`, which are
 * `{ file, title, vars }`: `title` is for the screen, and `vars` are set in the tests' environment. No file begins before `workers`
 * resolves, and none that starts native programs before `programs` does.
 */
export function runFiles(runs, { workers = Promise.resolve(), programs = Promise.resolve() } = {}) {
  const expected = ({ file }) => SECONDS[nameOf(file)] ?? 0;
  const promises = new Map();
  let turn = Promise.resolve();
  for (const each of runs.toSorted((a, b) => expected(b) - expected(a))) {
    const builds = BUILDERS.includes(nameOf(each.file));
    const needs = [workers, startsPrograms(at(each.file)) && programs, builds && turn];
    const ended = inPlace(Promise.all(needs), () => runFile(each));
    if (builds) turn = ended.catch(() => {});
    promises.set(each, ended);
  }
  const pulse = setInterval(() => {
    if (running.size > 0) console.log(`  … ${waiting.length + running.size} files of tests left; now ${[...running].join(", ")}`);
  }, 15_000);
  return Promise.all(runs.map((each) => promises.get(each))).finally(() => clearInterval(pulse));
}

const running = new Set();

async function runFile({ file, title, vars = {} }) {
  // Force-exit: a handle that a test forgot must not hang the whole run.
  const flags = ["--test", "--test-force-exit", `--test-timeout=${TEST_TIMEOUT_MS}`, "--test-reporter=spec"];
  const env = nodeEnv({ SSETARGET_PREBUILT: "1", ...vars });
  const name = `${nameOf(file)} (${title})`;
  const began = Date.now();
  running.add(name);
  const { ok, output } = await run(name, modernNode(), [...flags, file], { env, quiet: true, shows: false, pulses: false }).finally(() => running.delete(name));
  const ended = Date.now();
  const totals = output.search(/^ℹ tests \d+$/m);
  console.log(`${totals < 0 ? output : output.slice(0, totals)}${ok ? "✔" : "✖"} ${title}, ${file}: ${((ended - began) / 1000).toFixed(1)} s`);
  return { file, ok, output, began, ended };
}

let places = PLACES;
const waiting = [];

/** Does `work` once `ready` has resolved and there is a place. Of several that could begin, the first that was asked for does. */
function inPlace(ready, work) {
  return new Promise((resolve, reject) => {
    const job = { isReady: false, reject, work: () => work().then(resolve, reject) };
    waiting.push(job);
    ready.then(() => {
      job.isReady = true;
      begin();
    }, reject);
  });
}

function begin() {
  for (let next; places > 0 && (next = waiting.findIndex(({ isReady }) => isReady)) >= 0; ) {
    const [job] = waiting.splice(next, 1);
    if (isStopping()) {
      job.reject(new Failure("stopped."));
      continue;
    }
    places -= 1;
    job.work().finally(() => {
      places += 1;
      begin();
    });
  }
}

/** Whether a module, or one that it imports, starts programs that cargo builds for this machine. */
function startsPrograms(file, seen = new Set()) {
  if (seen.has(file) || !existsSync(file)) return false;
  seen.add(file);
  const text = readFileSync(file, "utf8");
  if (/\bdebug\/ssetarget/.test(text)) return true;
  const imports = [...text.matchAll(/from "(\.[^"]+)"/g)].map(([, name]) => path.join(path.dirname(file), name));
  return imports.some((each) => startsPrograms(each, seen));
}
