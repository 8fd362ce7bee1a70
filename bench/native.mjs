// npm run bench -- --native: axum with this library's stores, and axum's own `Sse` over a `tokio::sync::broadcast`.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Failure, at, capture, run } from "../scripts/lib/run.mjs";
import { startRedis } from "./redis/run.mjs";

/** In the order of their turns. `place` resolves to the second argument of the server, and to what is to be stopped after it. */
const STORES = {
  broadcast: { title: "broadcast" },
  memory: { title: "memory" },
  sqlite: { title: "SQLite", place: sqliteFile },
  redis: { title: "Redis", place: redisServer, sparse: 1 },
};

const idle = (viewers) => ["idle", { viewers, seconds: 20 }, { viewers: 50, seconds: 1 }];
const fanOut = (viewers, batches) => ["fan-out", { viewers, batch: 1, batches }, { viewers: Math.min(viewers, 50), batches: 20 }];
const replay = (clients) => ["replay", { path: "/log/sse", clients, expect: 10_000 }, { expect: 500 }];

/** `rows` are metrics of the client's report, with what they are divided by. */
const SCENARIOS = [
  ...[
    [1, 20_000],
    [100, 2_000],
    [10_000, 30],
  ].map(([viewers, batches]) => ({
    name: `fan-out-${viewers}`,
    title: `fan-out to ${viewers.toLocaleString("en")}, single events`,
    client: fanOut(viewers, batches),
    rows: [
      ["deliveries, /s", "perSecond", 1],
      ["CPU for each delivery, µs", "cpuUsPerEvent", 1],
      ["lost", "lost", 1],
    ],
  })),
  {
    name: "idle",
    title: "10,000 idle viewers",
    client: idle(10_000),
    rows: [
      ["CPU to connect one, µs", "connectUsPerViewer", 1],
      ["memory for each, KB", "memoryPerViewer", 1000],
      ["CPU in a second, ms", "cpuMsPerSecond", 1],
      ["the next event at all of them, ms", "nextEventMs", 1],
    ],
  },
  ...[1, 8].map((clients) => ({
    name: `replay-${clients}`,
    title: `replay of 10,000 events, ${clients === 1 ? "1 client" : `${clients} clients`}`,
    client: replay(clients),
    stored: true,
    rows: [
      ["events, /s", "perSecond", 1],
      ["CPU for each event, µs", "cpuUsPerEvent", 1],
    ],
  })),
  {
    name: "ingest",
    title: "append, single events",
    client: ["ingest", { log: "log", batch: 1, batches: 5_000 }, { batches: 50 }],
    rows: [["events, /s", "perSecond", 1]],
  },
];

/** Measures and writes `native.md` and `native.json` into the folder. */
export async function measureNative(folder, { client, machine, short, trials, wanted }) {
  const { ok } = await run("cargo build", "cargo", ["build", "--release", "-p", "ssetarget-bench-native"], { quiet: true });
  if (!ok) throw new Failure("the native servers do not build.");
  const hasRedis = capture("redis-server", ["--version"]) !== null;
  const stores = Object.keys(STORES).filter((name) => name !== "redis" || hasRedis);
  const report = { ...machine, trials, scenarios: [] };
  for (const scenario of SCENARIOS.filter(({ name }) => !wanted || wanted.some((text) => name.startsWith(text)))) {
    const results = Object.fromEntries(stores.map((name) => [name, []]));
    for (let trial = 1; trial <= trials; trial += 1) {
      for (const name of stores) {
        if (name === "broadcast" && scenario.stored) continue;
        const result = await attempt(scenario, name, { client, short }).catch((error) => ({ failed: error.message }));
        results[name].push(result);
        const [title, metric, unit] = scenario.rows[0];
        console.log(`${scenario.name} ${trial}/${trials} ${STORES[name].title}: ${result.failed ?? `${title} ${Math.round(result[metric] / unit)}`}`);
      }
    }
    report.scenarios.push({ name: scenario.name, results });
  }
  const failures = faults(report);
  if (short) {
    for (const failure of failures) console.log(`✖ ${failure}`);
    if (failures.length > 0) process.exitCode = 1;
    return;
  }
  console.log(markdown(report));
  writeFileSync(path.join(folder, "native.json"), `${JSON.stringify(report, null, 1)}\n`);
  writeFileSync(path.join(folder, "native.md"), markdown(report));
}

async function attempt({ client: [scenario, sizes, small], stored }, name, { client, short }) {
  const { argument, stop } = (await STORES[name].place?.()) ?? { stop() {} };
  try {
    const server = await start(name, argument);
    try {
      const all = { ...sizes, capMs: 30_000, sparse: STORES[name].sparse ?? 0, ...(short && small) };
      const args = Object.entries(all).map(([key, value]) => `${key}=${value}`);
      if (stored) {
        await client(server, ["ingest", "log=log", "batch=100", `batches=${all.expect / 100}`]);
      }
      return await client(server, [scenario, ...args]);
    } finally {
      server.stop();
    }
  } finally {
    stop();
  }
}

function start(name, argument) {
  const child = spawn(at("target/release/bench-native"), argument ? [name, argument] : [name], { stdio: ["ignore", "pipe", "inherit"] });
  process.once("exit", () => child.kill("SIGKILL"));
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
        return ["lost", "duplicates", "disorder", "wrong"].filter((fault) => trial[fault] > 0).map((fault) => `${name}, ${store}: ${trial[fault]} ${fault}`);
      }),
    ),
  );
}

function markdown({ started, machine, load, trials, scenarios }) {
  const titles = Object.values(STORES).map(({ title }) => title);
  const lines = scenarios.flatMap(({ name, results }) => {
    const scenario = SCENARIOS.find((found) => found.name === name);
    return scenario.rows.map(([row, metric, unit]) => {
      const cells = Object.keys(STORES).map((store) => number(median((results[store] ?? []).map((trial) => trial[metric] / unit))));
      return `| ${scenario.title}: ${row} | ${cells.join(" | ")} |`;
    });
  });
  return `# Native servers

Made by \`npm run bench -- --native --save\` at ${started}. Do not edit.

axum 0.8 with each store of this library, and axum's own \`Sse\` over a \`tokio::sync::broadcast\`, which has no log: who
comes late or reconnects has missed what was sent. One process each; SQLite's file is in memory where the system has
such a folder. Medians of ${trials}. ${machine}, load ${load.join(", ")}.

| | ${titles.join(" | ")} |
|---|${titles.map(() => "---:|").join("")}
${lines.join("\n")}
`;
}

function median(values) {
  const sorted = values.filter(Number.isFinite).toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

const number = (value) => (value === undefined ? "–" : value.toLocaleString("en", { maximumSignificantDigits: 3 }));
