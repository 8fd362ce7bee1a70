// npm run bench [-- --short] [--trials N] [--scenarios a,b] [--contestants a,b] [--save] [--note TEXT]
// npm run bench -- --redis | --axum | --native [--short] [--trials N] [--scenarios a,b] [--save]
// npm run bench -- --native --instructions [--save]
// npm run bench -- --profile [--scenarios a] [--contestants a]
// npm run bench -- --docs
//
// Measures this library against the npm package that it re-creates and against the least work that
// a Durable Object can do: see README.md in this folder.
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { Failure, at, foreground, isStopping, main, run } from "../scripts/lib/run.mjs";
import { ensureNodeModules, ensureRust, modernNode } from "../scripts/lib/setup.mjs";
import { CONTESTANTS, buildContestants, bundleSize, contestant } from "./lib/contestants.mjs";
import { machine } from "./lib/machine.mjs";
import { printTable, saveMeasured, saveResults } from "./lib/report.mjs";
import { GZIP_AT_MOST, ROWS_AT_MOST, SCENARIOS, clientArgs, fillings } from "./lib/scenarios.mjs";
import { measureAxum } from "./axum.mjs";
import { countInstructions, measureNative } from "./native.mjs";
import { profiled, saveProfile } from "./profile.mjs";
import { compareOnRedis } from "./redis/run.mjs";
import { Storage, serve } from "./lib/workerd.mjs";

const CLIENT = at("target/release/bench-client");

main(async () => {
  const options = parseOptions();
  if (options.docs) return saveMeasured();
  if (options.profile && typeof WebSocket === "undefined") {
    process.exitCode = await foreground(modernNode(), process.argv.slice(1));
    return;
  }
  if (options.profile) process.env.CARGO_PROFILE_RELEASE_STRIP = "none"; // functions are to have names
  const folder = options.save ? at("bench/results") : at("target/bench/results");
  mkdirSync(folder, { recursive: true });
  if (options.redis) {
    await ensureNodeModules();
    await ensureRust();
    return compareOnRedis(folder, options);
  }
  if (options.axum) {
    await buildClient();
    return measureAxum(folder, { client, machine: machine(options), short: options.short });
  }
  if (options.native) {
    await buildClient();
    if (options.instructions) return countInstructions(folder, { client, machine: machine(options) });
    return measureNative(folder, { client, machine: machine(options), ...options });
  }
  await ensureNodeModules();
  await ensureRust();
  await buildClient();
  await buildContestants([...options.contestants, ...served(options)]);

  if (options.profile) return profile(options, folder);
  const results = { ...machine(options), note: options.note, contestants: options.contestants, scenarios: [] };
  results.client = await measureClient(options);
  for (const scenario of options.scenarios) {
    results.scenarios.push({ name: scenario.name, trials: await measure(scenario, options) });
  }
  results.sizes = Object.fromEntries(options.contestants.map((name) => [name, bundleSize(name)]));
  results.finished = new Date().toISOString();
  results.loadAfter = machine(options).load;

  if (options.short) return judge(results);
  printTable(results);
  saveResults(results, folder, { apart: options.save && options.wanted !== undefined });
});

function parseOptions() {
  const { values } = parseArgs({
    options: {
      short: { type: "boolean", default: false },
      trials: { type: "string" },
      scenarios: { type: "string" },
      contestants: { type: "string" },
      save: { type: "boolean", default: false },
      docs: { type: "boolean", default: false },
      redis: { type: "boolean", default: false },
      profile: { type: "boolean", default: false },
      axum: { type: "boolean", default: false },
      native: { type: "boolean", default: false },
      instructions: { type: "boolean", default: false },
      note: { type: "string" },
    },
  });
  const trials = values.short ? 1 : Number(values.trials ?? 5);
  if (!Number.isInteger(trials) || trials < 1) throw new Failure("--trials takes a number from 1 on.");
  const contestants = values.contestants?.split(",") ?? Object.keys(CONTESTANTS);
  contestants.forEach(contestant);
  const wanted = values.scenarios?.split(",");
  const isName = (text) => SCENARIOS.some(({ name }) => name === text);
  const matches = ({ name, onlyIfNamed }) => (text) => (isName(text) || onlyIfNamed ? name === text : name.startsWith(text));
  const scenarios = SCENARIOS.filter((scenario) => (wanted ? wanted.some(matches(scenario)) : !scenario.onlyIfNamed));
  if (scenarios.length === 0 && !values.native) {
    throw new Failure(`no scenario is or begins with ${values.scenarios}; there are ${SCENARIOS.map(({ name }) => name).join(", ")}.`);
  }
  const rounds = values.trials === undefined ? undefined : trials;
  return { ...values, trials, rounds, contestants, scenarios, wanted };
}

/** What is served in place of contestants. */
function served({ scenarios, contestants }) {
  const names = scenarios.flatMap(({ servers = {} }) => contestants.map((name) => servers[name]));
  return [...new Set(names.filter(Boolean))];
}

const takesPart = (name, { servers }) => !servers || name in servers;

async function buildClient() {
  const args = ["build", "--release", "-p", "ssetarget-bench-client"];
  const { ok } = await run("cargo build of the client", "cargo", args, { quiet: true });
  if (!ok) throw new Failure("the benchmark's client does not build.");
}

/** The limits of the client and the runtime: a stream without an object, a log or JavaScript per event. */
async function measureClient(options) {
  const events = options.short ? 10_000 : 1_000_000;
  const storage = new Storage();
  const server = await serve("static", storage);
  try {
    const args = ["replay", `path=/log/sse?events=${events}`, "clients=1", `expect=${events}`, "warm=0"];
    await client(server, args); // makes the pages
    return await client(server, args);
  } finally {
    await server.stop();
    storage.delete();
  }
}

/** Trials in turns, A B C A B C, so that other work on the machine affects all. */
async function measure(scenario, options) {
  const trials = Object.fromEntries(options.contestants.map((name) => [name, []]));
  const count = Math.min(options.trials, scenario.maxTrials ?? Infinity);
  for (let trial = 1; trial <= count; trial += 1) {
    for (const name of options.contestants.filter((name) => takesPart(name, scenario))) {
      if (isStopping()) throw new Failure("stopped.");
      // A contestant that breaks down does not end the run: that is a result too.
      const report = await attempt(scenario, name, options).catch((error) => ({ failed: error.message }));
      trials[name].push(report);
      console.log(`${scenario.name} ${trial}/${count} ${contestant(name).title}: ${report.failed ?? summary(scenario, report)}`);
    }
  }
  return trials;
}

/** Each scenario once with each contestant, with a profile. */
async function profile(options, folder) {
  const parts = [`# Profiles\n\nMade by \`npm run bench -- --profile\` at ${new Date().toISOString()}. Do not edit.\n`];
  for (const scenario of options.scenarios) {
    for (const name of options.contestants.filter((name) => takesPart(name, scenario))) {
      const report = await attempt(scenario, name, { ...options, inspect: true });
      const text = saveProfile(report.profile, at("target/bench"), `${scenario.name}-${name}`);
      const part = `## ${scenario.title}: ${contestant(name).title}\n\n${summary(scenario, report)}\n\n\`\`\`text\n${text}\n\`\`\`\n`;
      console.log(part);
      parts.push(part);
    }
  }
  writeFileSync(path.join(folder, "profiles.md"), parts.join("\n"));
}

async function attempt(scenario, name, options) {
  const serverName = scenario.servers?.[name] ?? name;
  const storage = new Storage(await stored(serverName, fillings(scenario, options)));
  const server = await serve(serverName, storage, options);
  try {
    if (scenario.rowsWritten) await rowsWritten(server);
    const args = clientArgs(scenario, { ...options, lossy: contestant(name).lossy });
    const measured = () => client(server, args);
    const report = options.inspect ? await profiled(server, measured) : await measured();
    // Rounded, since there are a few rows for the schema too.
    if (scenario.rowsWritten) report.rowsPerEvent = Math.round((100 * (await rowsWritten(server))) / report.events) / 100;
    if (scenario.evictions) report.evictions = (await asked(server, "made")) - 1;
    report.coldMs = report.firstAtMs === undefined ? undefined : report.firstAtMs - server.started;
    return report;
  } catch (error) {
    throw new Failure(`${error.message}\n${server.log()}`);
  } finally {
    await server.stop();
    storage.delete();
  }
}

/** How many rows all objects wrote since this was first asked. */
const rowsWritten = (server) => asked(server, "");

async function asked({ rowsPort }, what) {
  const response = await fetch(`http://127.0.0.1:${rowsPort}/${what}`);
  return Number(await response.text());
}

const filled = new Map();

/** Makes a contestant's storage by these calls of the client, once. */
async function stored(name, calls) {
  if (calls.length === 0) return undefined;
  const key = `${name}/${JSON.stringify(calls)}`;
  if (!filled.has(key)) {
    const storage = new Storage();
    const server = await serve(name, storage);
    for (const [scenario, args] of calls) {
      await client(server, [scenario, ...Object.entries(args).map(([arg, value]) => `${arg}=${value}`), "capMs=120000"]);
    }
    await server.stop();
    filled.set(key, storage);
  }
  return filled.get(key);
}

/** `before` is a program that starts the client, with its arguments. */
async function client(server, args, before = []) {
  const all = [...before, CLIENT, ...args, `port=${server.port}`, `pid=${server.pid}`];
  const { ok, output } = await run(`bench-client ${args[0]}`, all[0], all.slice(1), { quiet: true });
  if (!ok) throw new Error(output);
  return JSON.parse(output);
}

function summary(scenario, report) {
  const faults = FAULTS.filter((fault) => total(report, fault) > 0).map((fault) => `${total(report, fault)} ${fault}`);
  const { metric } = scenario.rows[0];
  const value = report[metric] === null ? "nothing" : Math.round(report[metric] * 100) / 100;
  return [`${metric} ${value}`, report.capped && "cut off", ...faults].filter(Boolean).join(", ");
}

const FAULTS = ["lost", "duplicates", "disorder", "wrong"];

/** Also the faults of the viewer that had stalled. */
const total = (report, fault) => (report[fault] ?? 0) + (report.stalled?.[fault] ?? 0);

/**
 * The short form: every scenario went through, and those contestants that must be exact were. No time
 * is judged, but what is the same in every run is.
 */
function judge(results) {
  const failures = [];
  let passed = 0;
  const check = (title, faults) => (faults.length > 0 ? failures.push(`${title}: ${faults.join(", ")}`) : (passed += 1));
  const exact = ["ours", "ours-hibernating", "roofline"].filter((name) => results.contestants.includes(name));
  for (const { name, trials } of results.scenarios) {
    const { rowsAtMost } = SCENARIOS.find((scenario) => scenario.name === name);
    for (const contestant of exact.filter((name) => trials[name].length > 0)) {
      const [report] = trials[contestant];
      const faults = FAULTS.filter((fault) => total(report, fault) > 0).map((fault) => `${total(report, fault)} ${fault}`);
      if (report.failed) faults.push(report.failed);
      if (report.capped || report.stalled?.capped) faults.push("incomplete");
      if (report.rowsPerEvent > (rowsAtMost ?? ROWS_AT_MOST)) faults.push(`${report.rowsPerEvent} rows written for each event`);
      check(`${name}, ${contestant}`, faults);
    }
  }
  if (results.sizes.ours) check("size", results.sizes.ours.gzip > GZIP_AT_MOST ? [`${results.sizes.ours.gzip} bytes of gzip`] : []);
  for (const failure of failures) console.log(`✖ ${failure}`);
  console.log(`bench: ${passed} passed, ${failures.length} failed`);
  if (failures.length > 0) process.exitCode = 1;
}
