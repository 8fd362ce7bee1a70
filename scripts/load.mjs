// npm run load [-- --short] [-- --save] [-- NAME...]: many viewers at once, on Workers and on axum: 2,000 of one run,
// 10,000 who connect and vanish, 200 who never read while 20,000 events come, and 2,000 who come back after `kill -9`.
//
// Uses the client of the benchmark (bench/client), which checks every event, and its servers. Prints the figures, and
// with --save writes them into docs/scale.md. Ends with 1 if an event was lost, came twice, late or wrong. Loopback
// only; takes five minutes, and needs 12,000 file descriptors.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Failure, at, capture, main, run } from "./lib/run.mjs";
import { ensureNodeModules, ensureRust } from "./lib/setup.mjs";
import { buildContestants } from "../bench/lib/contestants.mjs";
import { machine } from "../bench/lib/machine.mjs";
import { Storage, serve } from "../bench/lib/workerd.mjs";

const CLIENT = at("target/release/bench-client");

/** Each resolves to a place, whose `start` starts a server over its storage, also again. */
const PLACES = {
  workers: { title: "Workers", open: () => workers("ours") },
  hibernating: { title: "Workers, hibernating", open: () => workers("ours-hibernating") },
  axum: { title: "axum, SQLite", open: axum },
};

const LOADS = [
  {
    title: (size) => `${size(2_000)} viewers of one run, ${size(50)} events one by one`,
    scenario: (size) => ["fan-out", { viewers: size(2_000), batch: 1, batches: size(50), capMs: 120_000 }],
    says: ({ perSecond }) => `${thousands(perSecond)} deliveries/s`,
  },
  {
    title: (size) => `${size(10_000)} connect and vanish while 10 watch`,
    scenario: (size) => ["vanish", { viewers: size(10_000), together: size(200), healthy: 10, restMs: 20_000, capMs: 120_000 }],
    says: ({ vanishedPerSecond, cpuUsPerViewer, filesBefore, filesAfter, memoryAfter }) =>
      `${thousands(vanishedPerSecond)} viewers/s, ${thousands(cpuUsPerViewer)} µs of CPU each; 20 s later ${mega(memoryAfter)} MB, and ${filesAfter} file descriptors, as against ${filesBefore} before`,
  },
  {
    title: (size) => `${size(200)} never read while ${size(20_000)} events come; 10 do read`,
    scenario: (size) => ["stalled", { healthy: 10, stalled: size(200), batch: 100, batches: size(20_000) / 100, capMs: 180_000 }],
    says: ({ perSecond, stalled }) => `${thousands(perSecond)} deliveries/s to those who read; then the others read, and have all ${stalled.deliveries.toLocaleString("en")} events after ${stalled.seconds.toFixed(1)} s`,
  },
  {
    title: (size) => `\`kill -9\` under ${size(2_000)} viewers, who all come back at once`,
    storm: true,
    says: ({ allLiveMs, cpuUsPerViewer }) => `all live after ${(allLiveMs / 1000).toFixed(1)} s, ${thousands(cpuUsPerViewer)} µs of CPU each`,
  },
];

main(async () => {
  const args = process.argv.slice(2);
  const [short, saves] = ["--short", "--save"].map((flag) => args.includes(flag));
  const names = args.filter((arg) => !arg.startsWith("--"));
  const unknown = names.find((name) => !(name in PLACES));
  if (unknown) throw new Failure(`there is no place called ${unknown}; choose ${Object.keys(PLACES).join(", ")}.`);
  const size = (number) => (short ? Math.ceil(number / 20) : number);
  await ensureRust();
  await ensureNodeModules();
  const built = await run("cargo build", "cargo", ["build", "--release", "-p", "ssetarget-bench-client", "-p", "ssetarget-bench-native"], { quiet: true });
  if (!built.ok) throw new Failure("the programs of the benchmark do not build.");
  const on = machine({ trials: 1 });

  const rows = [];
  const wrong = [];
  for (const name of names.length > 0 ? names : Object.keys(PLACES)) {
    const place = await PLACES[name].open();
    try {
      for (const load of LOADS) {
        const report = await (load.storm ? storm(place, size) : once(place, load.scenario(size)));
        const row = [load.title(size), PLACES[name].title, load.says(report), mega(report.memory), mega(report.peakMemory), (report.cpuMs / 1000).toFixed(1), report.seconds.toFixed(1), `${faults(report)}`];
        rows.push(row);
        console.log(row.join(" · "));
        if (faults(report) > 0 || report.capped || report.stalled?.capped) wrong.push(`${row[0]} (${row[1]}): ${JSON.stringify(report)}`);
      }
    } finally {
      place.delete();
    }
  }
  rows.sort((a, b) => LOADS.findIndex(({ title }) => title(size) === a[0]) - LOADS.findIndex(({ title }) => title(size) === b[0]));
  const text = table(rows, on);
  console.log(`\n${text}`);
  if (saves) {
    const file = at("docs/scale.md");
    writeFileSync(file, readFileSync(file, "utf8").replace(/(<!-- load -->\n).*(<!-- \/load -->)/s, (_, begin, end) => `${begin}${text}${end}`));
  }
  if (wrong.length > 0) throw new Failure(`not exact:\n${wrong.join("\n")}`);
  process.exit(0);
});

/** A load on a server that has just been started over an empty storage. */
async function once(place, [scenario, sizes]) {
  place.empty();
  const server = await place.start();
  try {
    return await client(server, scenario, sizes);
  } finally {
    await server.stop();
  }
}

/** A server that is killed under its viewers, and started again over what it had stored. */
async function storm(place, size) {
  place.empty();
  const [clients, stored] = [size(2_000), 1_000];
  const first = await place.start();
  await client(first, "ingest", { log: "log", batch: 100, batches: stored / 100 });
  const watching = start(first, "storm", { path: "/log/sse", clients, after: stored - 50, expect: stored, holdMs: 60_000, capMs: 60_000 });
  await watching.holds;
  await first.stop();
  await watching.ended; // its connections broke
  const second = await place.start();
  try {
    // One more event came while they watched.
    return await client(second, "storm", { path: "/log/sse", clients, after: stored - 50, expect: stored + 1, capMs: 120_000 });
  } finally {
    await second.stop();
  }
}

async function client(server, scenario, sizes) {
  const { ok, output } = await run(`bench-client ${scenario}`, CLIENT, clientArgs(server, scenario, sizes), { quiet: true });
  if (!ok) throw new Failure(output);
  return JSON.parse(output);
}

/** Starts the client without waiting for it. `holds` resolves once all of its viewers are live. */
function start(server, scenario, sizes) {
  const child = spawn(CLIENT, clientArgs(server, scenario, sizes), { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  const ended = new Promise((resolve) => child.once("close", resolve));
  const holds = new Promise((resolve, reject) => {
    child.stderr.setEncoding("utf8").on("data", (text) => {
      said += text;
      if (said.includes("are live")) resolve();
    });
    ended.then(() => reject(new Failure(`the viewers did not come: ${said}`)));
  });
  return { holds, ended };
}

const clientArgs = (server, scenario, sizes) => [scenario, ...Object.entries(sizes).map(([name, value]) => `${name}=${value}`), `port=${server.port}`, `pid=${server.pid}`];

async function workers(name) {
  await buildContestants([name]);
  let storage = new Storage();
  return {
    empty() {
      storage.delete();
      storage = new Storage();
    },
    start: () => serve(name, storage),
    delete: () => storage.delete(),
  };
}

async function axum() {
  const folder = mkdtempSync(path.join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "ssetarget-load-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  let number = 0;
  return {
    empty: () => (number += 1),
    async start() {
      const child = spawn(at("target/release/bench-native"), ["sqlite", path.join(folder, `${number}.db`)], { stdio: ["ignore", "pipe", "inherit"] });
      const kill = () => child.kill("SIGKILL");
      process.once("exit", kill);
      const ended = new Promise((resolve) => child.once("close", resolve));
      const port = await new Promise((resolve, reject) => {
        child.stdout.setEncoding("utf8").once("data", (text) => resolve(Number(text)));
        ended.then((code) => reject(new Failure(`bench-native ended with ${code}.`)));
      });
      return {
        pid: child.pid,
        port,
        async stop() {
          kill();
          await ended;
          process.removeListener("exit", kill);
        },
      };
    },
    delete: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** What must not be: events that were lost, came twice, out of order, or are wrong. */
function faults(report) {
  const own = ["lost", "duplicates", "disorder", "wrong"].reduce((sum, fault) => sum + (report[fault] ?? 0), 0);
  return own + (report.stalled ? faults(report.stalled) : 0);
}

function table(rows, { started, machine, load }) {
  const heads = ["load", "server", "", "memory before, MB", "at most", "CPU, s", "time, s", "lost, twice or wrong"];
  return `Made by \`npm run load -- --save\` at ${started}, on ${machine}, with a load of ${load.join(", ")}. All is on this machine,
the viewers too, so that they and the server share the processors. Workers: the local runtime, all objects in one process.

| ${heads.join(" | ")} |
|${heads.map((_, index) => (index < 3 ? "---" : "---:")).join("|")}|
${rows.map((row) => `| ${row.join(" | ")} |`).join("\n")}
`;
}

const mega = (bytes) => (bytes / 1e6).toFixed(0);
const thousands = (number) => Math.round(number).toLocaleString("en");
