// npm run bench -- --native: axum with this library's stores, and axum's own `Sse` over a `tokio::sync::broadcast`.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import os, { tmpdir } from "node:os";
import path from "node:path";
import { Failure, at, capture, run } from "../scripts/lib/run.mjs";
import { startRedis } from "./redis/run.mjs";

/**
 * `share` is the part of a scenario's appends that a slow store gets, so that a round is short. `place` resolves to the second argument of the server, and to what is to be stopped after it.
 * The broadcast has room for more than is ever sent at once, but where a scenario says how much.
 */
const STORES = {
  broadcast: { title: "broadcast", place: ({ capacity = 131_072 }) => ({ argument: String(capacity), stop() {} }) },
  memory: { title: "memory" },
  sqlite: { title: "SQLite", place: sqliteFile, share: 0.25 },
  redis: { title: "Redis", place: redisServer, sparse: 1, share: 0.05 },
};

/** Rounds in turns, unless `--trials` or a scenario asks for fewer: each is short, and what else the machine does comes and goes in between. */
const ROUNDS = 9;
const STORED = 100_000;

const fanOut = (viewers, batches) => ["fan-out", { viewers, batch: 1, batches }, { viewers: Math.min(viewers, 50), batches: 20 }];
const requests = (viewers, rate) => ["requests", { logs: 1, viewers, rate, seconds: 2 }, { viewers: Math.min(viewers, 50), rate: 20, seconds: 1 }];
const replay = (clients) => ["replay", { path: "/log/sse", clients, expect: STORED }, { expect: 500 }];
const people = (viewers) => `${viewers.toLocaleString("en")} ${viewers === 1 ? "viewer" : "viewers"}`;

/**
 * `rows` are metrics of the client's report, with what they are divided by; with `more`, more is better. Their ratio says how
 * many times better memory is than the broadcast.
 */
const SCENARIOS = [
  ...[
    [1, 60_000],
    [100, 2_000],
    [10_000, 30],
  ].map(([viewers, batches]) => ({
    name: `fan-out-${viewers}`,
    ...(viewers > 1_000 && { rounds: 5 }),
    title: `${people(viewers)}, as fast as it goes`,
    client: fanOut(viewers, batches),
    rows: [
      ["deliveries, /s", "perSecond", 1, { more: true }],
      ["CPU for each delivery, µs", "cpuUsPerEvent", 1],
    ],
  })),
  ...[
    [1, 1_000],
    [100, 100],
    [10_000, 2],
  ].map(([viewers, rate]) => ({
    name: `requests-${viewers}`,
    title: `${people(viewers)}, ${rate} events a second, one by one request`,
    rounds: 5,
    client: requests(viewers, rate),
    rows: [
      ["from the request to a viewer, p50, ms", "p50Ms", 1],
      ["… p99, ms", "p99Ms", 1],
      ["CPU for each delivery, µs", "cpuUsPerEvent", 1],
    ],
  })),
  {
    name: "idle",
    title: "10,000 idle viewers",
    rounds: 2,
    // Two heartbeats for each.
    client: ["idle", { viewers: 10_000, seconds: 30 }, { viewers: 50, seconds: 1 }],
    rows: [
      ["CPU to connect one, µs", "connectUsPerViewer", 1],
      ["memory for each, KB", "memoryPerViewer", 1000],
      ["CPU in a second (heartbeats), ms", "cpuMsPerSecond", 1],
      ["the next event at all of them, ms", "nextEventMs", 1],
    ],
  },
  {
    name: "stalled",
    title: "10 viewers, and 10 that do not read while 60,000 events come",
    rounds: 3,
    client: ["stalled", { healthy: 10, stalled: 10, batch: 10, batches: 6_000, quietMs: 2_000 }, { healthy: 2, stalled: 2, batches: 20 }],
    // What a server would choose: each event of it is there until all have it.
    capacity: 1_024,
    rows: [
      ["deliveries to those that read, /s", "perSecond", 1, { more: true }],
      ["lost by those that read", "lost", 1],
      ["lost by those that stalled", "lostByStalled", 1],
    ],
  },
  ...[1, 8].map((clients) => ({
    name: `replay-${clients}`,
    title: `replay of ${STORED.toLocaleString("en")} events, ${clients === 1 ? "1 client" : `${clients} clients`}`,
    client: replay(clients),
    stored: true,
    rows: [
      ["events, /s", "perSecond", 1, { more: true }],
      ["CPU for each event, µs", "cpuUsPerEvent", 1],
    ],
  })),
  ...[
    [1, 150_000],
    [100, 3_000],
  ].map(([batch, batches]) => ({
    name: `ingest-${batch}`,
    title: batch === 1 ? "append, single events" : `append, ${batch} at a time`,
    client: ["ingest", { log: "log", batch, batches }, { batches: 50 }],
    rows: [
      ["events, /s", "perSecond", 1, { more: true }],
      ["CPU for each event, µs", "cpuUsPerEvent", 1],
    ],
  })),
];

/**
 * Instructions outside of the kernel, by callgrind: they are nearly the same each time, whatever else the machine does.
 * `per` is what the client reports that they are divided by.
 */
const INSTRUCTIONS = [
  { title: "for each delivery, 1 viewer", client: ["fan-out", { viewers: 1, batch: 1, batches: 5_000 }], per: ({ deliveries }) => deliveries },
  { title: "for each delivery, 100 viewers", client: ["fan-out", { viewers: 100, batch: 1, batches: 200 }], per: ({ deliveries }) => deliveries },
  { title: "for each delivery, 1,000 viewers", client: ["fan-out", { viewers: 1_000, batch: 1, batches: 30 }], per: ({ deliveries }) => deliveries },
  { title: "to connect a viewer, and send it two events", client: ["idle", { viewers: 1_000, seconds: 1 }], per: ({ deliveries }) => deliveries },
  { title: "to append an event, nobody watches", client: ["ingest", { log: "log", batch: 1, batches: 5_000 }], per: ({ events }) => events },
  { title: "to append an event, 100 at a time", client: ["ingest", { log: "log", batch: 100, batches: 200 }], per: ({ events }) => events },
];

/** npm run bench -- --native --instructions: counts them, and writes `native-instructions.md` into the folder. */
export async function countInstructions(folder, { client, machine }) {
  if (capture("valgrind", ["--version"]) === null) throw new Failure("valgrind is missing: it counts the instructions.");
  const { ok } = await run("cargo build", "cargo", ["build", "--profile", "native", "-p", "ssetarget-bench-native"], { quiet: true });
  if (!ok) throw new Failure("the native servers do not build.");
  const lines = [];
  for (const { title, client: [scenario, sizes], per } of INSTRUCTIONS) {
    const counts = [];
    for (const store of ["broadcast", "memory", "sqlite"]) {
      const { argument, stop } = (await STORES[store].place?.({})) ?? { stop() {} };
      const out = mkdtempSync(path.join(tmpdir(), "ssetarget-callgrind-"));
      try {
        const server = await start(store, argument, ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", `--callgrind-out-file=${out}/counts`]);
        try {
          const control = (...args) => run("callgrind_control", "callgrind_control", [...args, `${server.pid}`], { quiet: true });
          await control("-i", "on");
          const report = await client(server, [scenario, ...Object.entries({ ...sizes, capMs: 60_000 }).map(([key, value]) => `${key}=${value}`)]);
          await control("-i", "off");
          await control("--dump");
          counts.push(total(out) / per(report));
        } finally {
          server.stop();
        }
      } finally {
        stop();
        rmSync(out, { recursive: true, force: true });
      }
    }
    lines.push(`| ${title} | ${counts.map((count) => Math.round(count).toLocaleString("en")).join(" | ")} | ${(counts[0] / counts[1]).toFixed(2)} |`);
    console.log(lines.at(-1));
  }
  writeFileSync(
    path.join(folder, "native-instructions.md"),
    `# Instructions of native servers

Made by \`npm run bench -- --native --instructions --save\` at ${machine.started}, commit ${machine.commit}. Do not edit.

Outside of the kernel, by callgrind, which has the threads take turns: what a server's own code costs, on a machine that may do
other things. The kernel's part, a \`writev\` for each viewer that gets something, is the same for all, and is most of the time.

| instructions | broadcast | memory | SQLite | broadcast / memory |
|---|---:|---:|---:|---:|
${lines.join("\n")}
`,
  );
}

/** The instructions of all dumps. */
function total(folder) {
  const texts = readdirSync(folder).map((file) => readFileSync(path.join(folder, file), "utf8"));
  return texts.reduce((sum, text) => sum + Number(text.match(/^totals: (\d+)/m)?.[1] ?? 0), 0);
}

/**
 * Measures and writes `native.md` and `native.json` into the folder. Scenarios that are not wanted keep what the file has of
 * them, so that they can be measured one after another, when the machine is quiet.
 */
export async function measureNative(folder, { client, machine, short, rounds = ROUNDS, wanted }) {
  const { ok } = await run("cargo build", "cargo", ["build", "--profile", "native", "-p", "ssetarget-bench-native"], { quiet: true });
  if (!ok) throw new Failure("the native servers do not build.");
  const hasRedis = capture("redis-server", ["--version"]) !== null;
  const stores = Object.keys(STORES).filter((name) => name !== "redis" || hasRedis);
  const file = path.join(folder, "native.json");
  const before = short || !existsSync(file) ? [] : JSON.parse(readFileSync(file, "utf8")).scenarios;
  const measured = new Map(before.map((scenario) => [scenario.name, scenario]));
  for (const scenario of SCENARIOS.filter(isWanted(wanted))) {
    const [started, load] = [new Date().toISOString(), os.loadavg().map((load) => Math.round(load * 100) / 100)];
    const results = Object.fromEntries(stores.map((name) => [name, []]));
    const count = short ? 1 : Math.min(rounds, scenario.rounds ?? Infinity);
    for (let round = 1; round <= count; round += 1) {
      // Forth and back, so that nobody always comes after the same one.
      for (const name of round % 2 === 1 ? stores : stores.toReversed()) {
        if (name === "broadcast" && scenario.stored) continue;
        const result = await attempt(scenario, name, { client, short }).catch((error) => ({ failed: error.message }));
        results[name].push(result);
        result.load = os.loadavg()[0];
        const [title, metric, unit] = scenario.rows[0];
        console.log(`${scenario.name} ${round}/${count} ${STORES[name].title}: ${result.failed ?? `${title} ${Math.round((100 * result[metric]) / unit) / 100}`}`);
      }
    }
    measured.set(scenario.name, { name: scenario.name, started, load, rounds: count, commit: machine.commit, results });
  }
  const scenarios = SCENARIOS.flatMap(({ name }) => measured.get(name) ?? []);
  const report = { ...machine, pinned: CAN_PIN, scenarios };
  const failures = faults(report);
  for (const failure of failures) console.log(`✖ ${failure}`);
  if (failures.length > 0) process.exitCode = 1;
  if (short) return;
  console.log(markdown(report));
  writeFileSync(file, `${JSON.stringify(report, null, 1)}\n`);
  writeFileSync(path.join(folder, "native.md"), markdown(report));
}

/** By names, or else by beginnings of names. */
function isWanted(wanted) {
  const isName = (text) => SCENARIOS.some(({ name }) => name === text);
  return ({ name }) => !wanted || wanted.some((text) => (isName(text) ? name === text : name.startsWith(text)));
}

async function attempt({ client: [scenario, sizes, small], stored, capacity }, name, { client, short }) {
  const { argument, stop } = (await STORES[name].place?.({ capacity })) ?? { stop() {} };
  try {
    const server = await start(name, argument);
    try {
      const { sparse = 0, share = 1 } = STORES[name];
    const all = { ...sizes, capMs: 30_000, sparse, ...(short && small) };
    if (!short && all.batches > 1_000) all.batches = Math.round(all.batches * share);
      const args = Object.entries(all).map(([key, value]) => `${key}=${value}`);
      if (stored) {
        await client(server, ["ingest", "log=log", "batch=100", `batches=${all.expect / 100}`]);
      }
      const report = await client(server, [scenario, ...args], PINNED.client);
      report.lostByStalled = report.stalled?.lost;
      if (name === "broadcast") report.lagged = Number(await (await fetch(`http://127.0.0.1:${server.port}/lagged`)).text());
      return report;
    } finally {
      server.stop();
    }
  } finally {
    stop();
  }
}

/**
 * A processor for the server and another one for the client, where there are two and `taskset`: a server that finds the
 * client in its way writes less often, and several events at once, which is faster. Redis has no processor of its own.
 */
const CAN_PIN = os.availableParallelism() > 1 && capture("taskset", ["--version"]) !== null;
const PINNED = CAN_PIN ? { server: ["taskset", "-c", "0"], client: ["taskset", "-c", "1"] } : { server: [], client: [] };

const running = new Set();
process.once("exit", () => running.forEach((child) => child.kill("SIGKILL")));

function start(name, argument, before = PINNED.server) {
  const [program, ...args] = [...before, at("target/native/bench-native"), name, ...(argument ? [argument] : [])];
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  running.add(child);
  child.once("close", () => running.delete(child));
  return new Promise((resolve, reject) => {
    child.stdout.setEncoding("utf8").once("data", (text) => resolve({ pid: child.pid, port: Number(text), stop: () => child.kill("SIGKILL") }));
    child.once("close", (code) => reject(new Error(`bench-native ${name} ended with ${code}`)));
  });
}

function sqliteFile() {
  // In memory where there is such a folder, as the objects' storage is in the other benchmarks.
  const folder = mkdtempSync(path.join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "ssetarget-native-"));
  return { argument: path.join(folder, "events.db"), stop: () => rmSync(folder, { recursive: true, force: true }) };
}

async function redisServer() {
  const { url, stop } = await startRedis();
  return { argument: url, stop };
}

/** The faults that must not occur: a store of this library that is not exact. */
function faults({ scenarios }) {
  return scenarios.flatMap(({ name, results }) =>
    Object.entries(results).flatMap(([store, trials]) =>
      trials.flatMap((trial) => {
        if (trial.failed) return [`${name}, ${store}: ${trial.failed}`];
        if (store === "broadcast") return [];
        if (trial.stalled?.lost > 0) return [`${name}, ${store}: ${trial.stalled.lost} lost by those that stalled`];
        return ["lost", "duplicates", "disorder", "wrong"].filter((fault) => trial[fault] > 0).map((fault) => `${name}, ${store}: ${trial[fault]} ${fault}`);
      }),
    ),
  );
}

function markdown({ started, machine, pinned, scenarios }) {
  const titles = Object.values(STORES).map(({ title }) => title);
  const lines = scenarios.flatMap(({ name, results }) => {
    const scenario = SCENARIOS.find((found) => found.name === name);
    return scenario.rows.map(([row, metric, unit, { more } = {}]) => {
      const medians = Object.keys(STORES).map((store) => median((results[store] ?? []).map((trial) => trial[metric] / unit)));
      return `| ${scenario.title}: ${row} | ${medians.map(number).join(" | ")} | ${ratios(results, metric, more)} |`;
    });
  });
  const measured = scenarios.map(({ name, started, load, rounds, commit }) => `| ${name} | ${started.slice(0, 16).replace("T", " ")} | ${rounds} | ${load.join(", ")} | ${commit} |`);
  return `# Native servers

Made by \`npm run bench -- --native --save\` at ${started}. Do not edit.

axum 0.8 with each store of this library, and axum's own \`Sse\` over a \`tokio::sync::broadcast\`, which has no log: who
comes late or reconnects has missed what was sent. One process each${pinned ? ", on a processor of its own, and the client on another" : ""}; SQLite's file is in memory where the
system has such a folder. Short rounds in turns, forth and back; medians of them. CPU is user and system time of the server's process. ${machine}. What bounds each row: [bench/README.md](../README.md#native-servers).

| | ${titles.join(" | ")} | memory / broadcast |
|---|${titles.map(() => "---:|").join("")}---:|
${lines.join("\n")}

The ratio is how many times better: more events, or less time. It is the median of the rounds' ratios, with their quartiles. The client checks each event of each viewer; what is lost is in the table,
and nothing came twice, out of order, or with another's data${strange(scenarios)}.

| measured | at (UTC) | rounds | load of the machine before | commit |
|---|---|---:|---|---|
${measured.join("\n")}
`;
}

/** What a broadcast did besides losing. */
function strange(scenarios) {
  const all = scenarios.flatMap(({ results }) => Object.values(results).flat());
  const total = ["duplicates", "disorder", "wrong"].map((fault) => all.reduce((sum, trial) => sum + (trial[fault] ?? 0), 0));
  return total.some((count) => count > 0) ? `, but for ${total.join(", ")}` : "";
}

/** How many times better memory is, by the rounds: what disturbs a round disturbs both. */
function ratios({ broadcast = [], memory = [] }, metric, more) {
  const pairs = memory.map((ours, round) => [ours[metric], broadcast[round]?.[metric]]);
  const all = pairs.filter(([ours, theirs]) => ours > 0 && theirs > 0).map(([ours, theirs]) => (more ? ours / theirs : theirs / ours));
  if (all.length === 0) return "";
  const [low, middle, high] = [0.25, 0.5, 0.75].map((part) => quantile(all, part).toFixed(2));
  return `${middle} (${low}–${high})`;
}

const median = (values) => quantile(values.filter(Number.isFinite), 0.5);

function quantile(values, part) {
  const sorted = values.toSorted((a, b) => a - b);
  const place = (sorted.length - 1) * part;
  const [below, above] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
  return below === undefined ? undefined : below + (above - below) * (place % 1);
}

const number = (value) => (value === undefined ? "–" : value.toLocaleString("en", { maximumSignificantDigits: 3 }));
