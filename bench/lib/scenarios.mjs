// The scenarios: each with its sizes, those of the short form, and its rows.
//
// `client` is the scenario of the client and its arguments. `stored` is the number of events that the log has before;
// such a trial gets a server that has just been started over a copy. A row's `metric` is a field of the client's
// report; `atLeast` and `aim` are goals, as the ratio to the original 4.0.5: how many times faster or sooner, or for
// a `share` which part of it at most.

// Scenarios with `servers` are only for the contestants that have one there, which is what is served in their place.
// Scenarios that are `onlyIfNamed` are for docs/scale.md.
import { OF_RUNS } from "./contestants.mjs";

const RATE = { metric: "perSecond", better: "higher" };
const SOONER = { unit: "ms", better: "lower" };
const PEAK = { title: "peak memory", metric: "peakMemory", unit: "MB", better: "lower", share: true };
const GROWTH = { title: "memory growth", metric: "memoryGrowth", unit: "MB", better: "lower", share: true };

/** Limits for every run, which do not depend on the machine. */
export const ROWS_AT_MOST = 2;
/** For a report to an index of runs: the run, its place in time and the change, and every other time how long the run took. */
const ROWS_OF_REPORT_AT_MOST = 4;
/** The bench Worker, in bytes after gzip. bench/README.md says what the bytes of a Worker are. */
export const GZIP_AT_MOST = 330_000;
/** The README's own Worker, and the same with neither page nor snapshots. */
export const README_GZIP_AT_MOST = 317_000;
export const README_WITHOUT_PAGE_GZIP_AT_MOST = 258_000;
/**
 * The demo Worker, as it would be deployed. It switches on everything there is: pages, links, traces, the index of
 * runs, merged streams, Durable Streams, relays and hibernation. A Worker that needs less carries less.
 */
export const DEMO_GZIP_AT_MOST = 700_000;

const eventsPerSecond = { ...RATE, title: "events", unit: "/s" };
const deliveriesPerSecond = { ...RATE, title: "deliveries", unit: "/s" };
const COST = { ...SOONER, title: "CPU for each delivery", metric: "cpuUsPerEvent", unit: "µs" };
const RUNS_OF_INDEX = 10_000;

export const SCENARIOS = [
  replay(10_000, 1, [eventsPerSecond]),
  replay(10_000, 8, [eventsPerSecond]),
  replay(100_000, 1, [
    { ...eventsPerSecond, atLeast: 100, aim: 140, roofline: 0.95 },
    { ...SOONER, title: "first event", metric: "firstMs", atLeast: 50, aim: 100 },
    PEAK,
  ]),
  replay(100_000, 8, [eventsPerSecond, { ...PEAK, atLeast: 1 / 3, aim: 1 / 4 }]),
  {
    name: "resume",
    title: "resume of the last 50 of 10,000",
    client: ["resume", { path: "/log/sse", after: 9_950, expect: 10_000, times: 40 }],
    stored: 10_000,
    short: { times: 3 },
    rows: [{ ...SOONER, title: "all 50 events", metric: "resumeMs", atLeast: 8, aim: 12 }],
  },

  {
    name: "resume-4",
    title: "resume of the last 50 of 10,000, 4 at a time",
    client: ["resume", { path: "/log/sse", after: 9_950, expect: 10_000, times: 400, together: 4 }],
    stored: 10_000,
    short: { times: 8 },
    rows: [
      { title: "clients that have all 50", metric: "resumesPerSecond", unit: "/s", better: "higher" },
      { ...SOONER, title: "CPU for each", metric: "cpuUsPerResume", unit: "µs" },
    ],
  },

  fanOut(1, 1, 2_000),
  fanOut(10, 1, 1_000, { atLeast: 2.4, aimsAtRoofline: true }),
  fanOut(100, 1, 1_000, { atLeast: 15, aim: 23 }),
  fanOut(500, 1, 200, { atLeast: 35, aim: 50 }),
  fanOut(1, 100, 200, { atLeast: 13, aim: 15 }),
  fanOut(10, 100, 200),
  fanOut(100, 100, 50, { atLeast: 100, aim: 180 }),
  fanOut(500, 100, 10),
  { ...fanOut(1_000, 1, 100), onlyIfNamed: true },
  { ...fanOut(2_000, 1, 50), onlyIfNamed: true },
  { ...fanOut(2_000, 100, 3), onlyIfNamed: true },

  {
    name: "latency",
    title: "100 viewers, 50 events/s",
    client: ["latency", { logs: 1, viewers: 100, rate: 50, seconds: 8 }],
    short: { viewers: 5, seconds: 1 },
    rows: [
      { ...SOONER, title: "latency, p50", metric: "p50Ms", atLeast: 1.5, aim: 1.75 },
      { ...SOONER, title: "latency, p99", metric: "p99Ms" },
    ],
  },

  requests("request", { logs: 1, viewers: 1, rate: 50, seconds: 6 }, "50 events/s by one request each, 1 viewer"),
  requests("requests", { logs: 500, viewers: 1, rate: 1, seconds: 8 }, "500 instances with a viewer each, 1 event/s each by one request"),

  ingest(1, 3_000, { atLeast: 1, aim: 1.2 }),
  ingest(10, 1_000),
  ingest(100, 500, { atLeast: 1.5, aim: 2 }),

  {
    name: "rows",
    title: "200 batches of 10",
    client: ["ingest", { log: "log", batch: 10, batches: 200 }],
    short: {},
    rowsWritten: true,
    maxTrials: 1,
    rows: [{ title: "rows written for each event", metric: "rowsPerEvent", unit: "rows", better: "lower", share: true, atMost: [ROWS_AT_MOST, 1] }],
  },

  stalled(1, [
    { ...deliveriesPerSecond, title: "deliveries to the 10", atLeast: 30, aim: 42 },
    { ...GROWTH, atLeast: 1 / 4 },
  ]),
  stalled(0, [deliveriesPerSecond, GROWTH]),

  {
    name: "instances",
    title: "500 instances with a viewer each, 1 event/s each",
    client: ["latency", { logs: 500, viewers: 1, rate: 1, seconds: 8 }],
    short: { logs: 10, seconds: 1 },
    rows: [
      { ...SOONER, title: "latency, p50", metric: "p50Ms" },
      { ...SOONER, title: "latency, p99", metric: "p99Ms" },
      { ...SOONER, title: "CPU for each event", metric: "cpuUsPerEvent", unit: "µs" },
      PEAK,
    ],
  },
  {
    name: "idle",
    title: "1,000 idle viewers of a log",
    client: ["idle", { viewers: 1_000, seconds: 30 }],
    short: { viewers: 20, seconds: 1 },
    maxTrials: 2,
    evictions: true,
    rows: [
      { title: "evictions of the object while it was watched", metric: "evictions", unit: "", better: "higher" },
      { ...SOONER, title: "CPU to connect one", metric: "connectUsPerViewer", unit: "µs" },
      { ...SOONER, title: "CPU in a second", metric: "cpuMsPerSecond" },
      { ...SOONER, title: "memory for each viewer", metric: "memoryPerViewer", unit: "KB", share: true },
      { ...SOONER, title: "the next event at all of them", metric: "nextEventMs" },
    ],
  },
  {
    name: "open",
    title: "a run's lifetime opens its log, which nobody has asked since the start: 20,000 reports, and 20",
    client: ["open", { logs: 8 }],
    fill: (short) => [["fill", { logs: short ? 2 : 8, short: 20, long: short ? 1_000 : 20_000 }]],
    short: { logs: 2 },
    rows: [
      { ...SOONER, title: "with 20 (who has nothing to open answers at once)", metric: "openShortMs" },
      { ...SOONER, title: "with 20,000", metric: "openLongMs" },
      { title: "20,000 to 20", metric: "openRatio", unit: "x", better: "lower" },
    ],
  },
  {
    name: "storm",
    title: "2,000 viewers come back at once, 50 events behind, to a log of 10 MB",
    client: ["storm", { path: "/log/sse", clients: 2_000, after: 32_950, expect: 33_000 }],
    stored: 33_000,
    short: { clients: 20, after: 950, expect: 1_000 },
    shortStored: 1_000,
    rows: [
      { ...SOONER, title: "all are live", metric: "allLiveMs" },
      { ...SOONER, title: "CPU for each", metric: "cpuUsPerViewer", unit: "µs" },
      { ...GROWTH, title: "memory growth of the process" },
    ],
  },
  {
    name: "first",
    title: "the first requests of an isolate, one after another",
    client: ["first", {}],
    short: {},
    rows: [
      { ...SOONER, title: "one that the Worker answers alone", metric: "requestMs" },
      { ...SOONER, title: "an event by one request, answered", metric: "appendMs" },
      { ...SOONER, title: "a viewer, its first event", metric: "viewerMs" },
    ],
  },
  {
    name: "cold",
    title: "cold start: no process yet, 50 stored events",
    client: ["replay", { path: "/log/sse", clients: 1, expect: 50 }],
    stored: 50,
    short: {},
    cold: true,
    rows: [
      { ...SOONER, title: "first event", metric: "coldMs" },
      { ...SOONER, title: "first event, once the process listens", metric: "firstMs" },
    ],
  },

  mergedReplay(1),
  mergedReplay(4),
  merged(1, 300),
  merged(100, 50),

  reports(1, 3_000),
  reports(16, 300),
  {
    name: "index-rows",
    title: "200 runs of an index, two reports each",
    servers: OF_RUNS,
    client: ["ingest", { log: "reports", batch: 1, batches: 400 }],
    short: { batches: 40 },
    rowsWritten: true,
    rowsAtMost: ROWS_OF_REPORT_AT_MOST,
    maxTrials: 1,
    rows: [{ title: "rows written for each report", metric: "rowsPerEvent", unit: "rows", better: "lower", share: true }],
  },
  {
    name: "index-list",
    title: `the latest 100 of ${RUNS_OF_INDEX.toLocaleString("en")} runs of an index`,
    servers: OF_RUNS,
    client: ["get", { path: "/runs", times: 400, contains: latestRun(RUNS_OF_INDEX) }],
    fill: (short) => [indexOf(short ? 100 : RUNS_OF_INDEX)],
    short: { times: 4, contains: latestRun(100) },
    rows: [
      { ...SOONER, title: "answer, p50", metric: "answerMs" },
      { ...SOONER, title: "CPU for each answer", metric: "cpuUsPerEvent", unit: "µs" },
    ],
  },
  indexViewers(1, 2_000),
  indexViewers(100, 1_000),
  indexViewers(500, 200),
];

/** The longest time of a scenario. A contestant that is not ready then gets the rate of this time. */
export const CAP_MS = 8_000;
export const SHORT_CAP_MS = 60_000;

/** The arguments of the client. A contestant that is known to lose events is given up after a silence. */
export function clientArgs({ client: [scenario, args], short: sizes }, { short, lossy }) {
  const all = { ...args, capMs: CAP_MS, ...(lossy && { quietMs: 2_000 }) };
  if (short) Object.assign(all, sizes, { capMs: SHORT_CAP_MS }, lossy && { quietMs: 300 });
  return [scenario, ...Object.entries(all).map(([name, value]) => `${name}=${value}`)];
}

/** The calls of the client that fill the storage before a trial. */
export function fillings({ stored = 0, shortStored = stored, fill }, { short }) {
  if (fill) return fill(short);
  const events = short ? shortStored : stored;
  const batch = Math.min(events, 100);
  return events === 0 ? [] : [["ingest", { log: "log", batch, batches: events / batch }]];
}

function replay(stored, clients, rows) {
  const short = 1_000;
  return {
    name: `replay-${stored / 1000}k-${clients}`,
    title: `replay of ${stored.toLocaleString("en")} events, ${plural(clients, "client")}`,
    client: ["replay", { path: "/log/sse", clients, expect: stored, warm: 1 }],
    stored,
    short: { expect: short },
    shortStored: short,
    rows,
  };
}

function fanOut(viewers, batch, batches, target = {}) {
  return {
    name: `fan-out-${viewers}-${batch}`,
    title: `fan-out to ${plural(viewers, "viewer")}, ${batch === 1 ? "single events" : `batches of ${batch}`}`,
    client: ["fan-out", { viewers, batch, batches }],
    short: { viewers: Math.min(viewers, 20), batches: batch === 1 ? 10 : 3 },
    rows: [{ ...deliveriesPerSecond, ...target }],
  };
}

function requests(name, sizes, title) {
  return {
    name,
    title,
    client: ["requests", sizes],
    short: { logs: Math.min(sizes.logs, 10), seconds: 1 },
    rows: [
      { ...SOONER, title: "latency, p50", metric: "p50Ms" },
      { ...SOONER, title: "latency, p99", metric: "p99Ms" },
      { ...SOONER, title: "answer, p50", metric: "requestP50Ms" },
      { ...SOONER, title: "answer, p99", metric: "requestP99Ms" },
      { ...SOONER, title: "CPU for each event", metric: "cpuUsPerEvent", unit: "µs" },
    ],
  };
}

function ingest(batch, batches, target = {}) {
  return {
    name: `ingest-${batch}`,
    title: `ingest, ${batch === 1 ? "single events" : `batches of ${batch}`}`,
    client: ["ingest", { log: "log", batch, batches }],
    short: { batches: 5 },
    rows: [{ ...eventsPerSecond, ...target }],
  };
}

/** `viewers` streams of 20 runs that are stored. */
function mergedReplay(viewers) {
  const [runs, stored, short] = [20, 5_000, 100];
  return {
    name: `merge-replay-${viewers}`,
    title: `replay of 20 runs of ${stored.toLocaleString("en")} events each on one connection, ${plural(viewers, "client")}`,
    servers: OF_RUNS,
    client: ["merged-replay", { runs, viewers, expect: stored }],
    fill: (isShort) => Array.from({ length: runs }, (_, run) => ["ingest", { log: `log-${run}`, batch: 100, batches: (isShort ? short : stored) / 100 }]),
    short: { viewers: Math.min(viewers, 2), expect: short },
    rows: [deliveriesPerSecond, COST, PEAK],
  };
}

/** `viewers` streams of 20 runs to which events are appended, one after another and all at the same time. */
function merged(viewers, batches) {
  return {
    name: `merge-live-${viewers}`,
    title: `20 runs on one connection, single events to all of them, ${plural(viewers, "viewer")}`,
    servers: OF_RUNS,
    client: ["merged", { runs: 20, viewers, batches }],
    short: { runs: 4, viewers: Math.min(viewers, 5), batches: 10 },
    rows: [deliveriesPerSecond, COST, PEAK],
  };
}

function reports(together, batches) {
  return {
    name: `index-reports-${together}`,
    title: `reports to an index of ${RUNS_OF_INDEX.toLocaleString("en")} runs, ${together === 1 ? "one after another" : `${together} at a time`}`,
    servers: OF_RUNS,
    client: ["ingest", { log: "reports", from: 2 * RUNS_OF_INDEX + 1, batch: together, batches }],
    fill: (short) => [indexOf(short ? 100 : RUNS_OF_INDEX)],
    short: { batches: 5 },
    rows: [
      { ...RATE, title: "reports, two for each run", unit: "/s" },
      { ...COST, title: "CPU for each report" },
    ],
  };
}

function indexViewers(viewers, batches) {
  return {
    name: `index-viewers-${viewers}`,
    title: `changes of an index to ${plural(viewers, "viewer")}, one after another`,
    servers: OF_RUNS,
    client: ["fan-out", { log: "reports", path: "/runs/sse", viewers, batch: 1, batches }],
    short: { viewers: Math.min(viewers, 20), batches: 10 },
    rows: [deliveriesPerSecond, COST],
  };
}

/** The call of the client that reports these runs, from their beginnings to their ends. */
function indexOf(runs) {
  return ["ingest", { log: "reports", batch: 100, batches: (2 * runs) / 100 }];
}

function latestRun(runs) {
  return `"run-${String(runs - 1).padStart(6, "0")}"`;
}

function stalled(number, rows) {
  return {
    name: number ? "stalled" : "stalled-none",
    title: `50,000 events to 10 viewers, ${number ? "an 11th has stalled" : "none has stalled"}`,
    client: ["stalled", { healthy: 10, stalled: number, batch: 100, batches: 500 }],
    short: { batches: 10 },
    rows,
  };
}

function plural(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
