// node bench/page.mjs: the page under load, in a real browser: long tasks, frames, elements, the time until a stored
// run is shown, and bytes. Times are of this machine; tests/e2e/page-*.test.mjs check what must hold anywhere.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { launch } from "../tests/e2e/lib/browser.mjs";
import { Script, bigSnapshot } from "../tests/e2e/lib/page-runs.mjs";
import { servePage } from "../tests/e2e/lib/page-server.mjs";

const LIVE_EVENTS = 10_000;
const EACH_SECOND = 500;
const STORED = [10_000, 100_000, 300_000];
const VIEWPORT = { width: 1280, height: 900 };

const server = await servePage();
const browser = await launch();
try {
  bytes();
  await live();
  for (const events of STORED) await stored(events);
  await replay(100_000);
} finally {
  await browser.close();
  await server.kill();
}

function bytes() {
  const size = (name) => gzipSync(readFileSync(new URL(`../src/page/${name}`, import.meta.url)), { level: 9 }).length;
  const [script, stylesheet] = [size("workflow-run.js"), size("workflow-run.css")];
  say("bytes after gzip", `${script} + ${stylesheet} = ${script + stylesheet} (limit ${24 * 1024})`);
}

/** Steps that begin, report and end, in groups, at a fixed pace. */
async function live() {
  const run = server.run("live");
  const s = new Script(Date.now()).begin();
  for (const [type, data] of s.events) run.add(type, data);
  const page = await visit("live");
  await page.waitForSelector('workflow-run[data-connection="live"]');
  await page.evaluate(() => {
    window.most = 0;
    window.frames = 0;
    const look = () => {
      window.frames += 1;
      window.most = Math.max(window.most, document.querySelector("workflow-run").shadowRoot.querySelectorAll(".row").length);
      requestAnimationFrame(look);
    };
    look();
    window.long.length = 0;
  });
  const used = await processorTime(page);
  let group;
  let sent = 0;
  const began = performance.now();
  for (let step = 0; sent < LIVE_EVENTS; step += 1) {
    const from = s.events.length;
    s.time = Date.now();
    if (step % 100 === 0) group = s.task(`batch ${step / 100 + 1}`, { group: true });
    const task = s.task("import record", { parent: group });
    s.progress(task, { percent: (step * 7) % 100, message: `record ${step}` });
    if (step % 50 === 49) s.failAttempt(task, 1, "the record is locked");
    s.done(task, { attempt: step % 50 === 49 ? 2 : 1 });
    if (step % 100 === 99) s.done(group);
    for (const [type, data] of s.events.slice(from)) run.add(type, data);
    sent += s.events.length - from;
    s.events.length = 0;
    const ahead = (sent / EACH_SECOND) * 1000 - (performance.now() - began);
    if (ahead > 4) await new Promise((resolve) => setTimeout(resolve, ahead));
  }
  const seconds = (performance.now() - began) / 1000;
  await page.waitForFunction((last) => document.querySelector("workflow-run").view.cursor === last, run.events.at(-1).id);
  const cpu = await used();
  const { long, most, frames } = await page.evaluate(() => ({ long: window.long, most: window.most, frames: window.frames }));
  say(`${LIVE_EVENTS} events, live`, `${Math.round(sent / seconds)} a second for ${seconds.toFixed(1)} s: ${tasks(long)}; ${Math.round(frames / seconds)} frames a second; ${most} row elements at most`);
  say("of its main thread, each second", `${Math.round(cpu.ScriptDuration / seconds)} ms of scripts, ${Math.round((cpu.LayoutDuration + cpu.RecalcStyleDuration) / seconds)} ms of style and layout (processor time)`);
  await page.close();
  run.cut();
}

/** Returns a function that resolves to the processor time of the page's main thread since now, in milliseconds: other work of the machine does not count. */
async function processorTime(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  const read = async () => (await session.send("Performance.getMetrics")).metrics;
  const before = new Map((await read()).map(({ name, value }) => [name, value]));
  return async () => Object.fromEntries((await read()).map(({ name, value }) => [name, (value - before.get(name)) * 1000]));
}

async function stored(events) {
  const run = server.run(`stored-${events}`);
  run.snapshot = bigSnapshot(run.id, events);
  run.add("started", { taskId: "last-1", step: "last", kind: "do", count: 1, parentId: null, timestamp: new Date().toISOString() });
  run.events.length = 0;
  run.snapshot.cursor = events + 1;
  const bytes = JSON.stringify(run.snapshot).length;
  await (await fetch(`${server.url}/${run.id}`, { headers: { accept: "application/json" } })).arrayBuffer();
  const times = [];
  let rows = 0;
  let long = [];
  for (let n = 0; n < 5; n += 1) {
    const page = await visit(run.id);
    await page.waitForFunction(() => window.firstRows !== undefined);
    const found = await page.evaluate(() => ({ ms: window.firstRows, rows: document.querySelector("workflow-run").shadowRoot.querySelectorAll(".row").length, long: window.long }));
    times.push(found.ms);
    rows = Math.max(rows, found.rows);
    long = found.long;
    await page.close();
  }
  times.sort((a, b) => a - b);
  say(`${events} events, from a snapshot of ${(bytes / 1e6).toFixed(1)} MB`, `first rows ${Math.round(times[2])} ms after the navigation (median of 5, slowest ${Math.round(times[4])}); ${rows} row elements; ${tasks(long)}`);
  run.cut();
}

/** The same without a snapshot: every event is read. */
async function replay(events) {
  const run = server.run("replay");
  const s = new Script(Date.now() - 60_000).begin();
  for (let n = 0; n < events / 2; n += 1) s.step("import record", 1);
  for (const [type, data] of s.events) run.add(type, data);
  const page = await visit("replay");
  await page.waitForFunction((last) => document.querySelector("workflow-run")?.view?.cursor === last, run.events.at(-1).id, { timeout: 60_000, polling: 250 });
  const { ms, long } = await page.evaluate(() => ({ ms: performance.now(), long: window.long }));
  say(`${events} events, read one by one`, `all there ${(ms / 1000).toFixed(1)} s after the navigation; ${tasks(long)}`);
  await page.close();
  run.cut();
}

async function visit(id) {
  const page = await browser.newPage({ viewport: VIEWPORT });
  await page.addInitScript(() => {
    window.long = [];
    new PerformanceObserver((list) => window.long.push(...list.getEntries().map(({ duration }) => duration))).observe({ entryTypes: ["longtask"] });
    const look = () => {
      if (document.querySelector("workflow-run")?.shadowRoot?.querySelector(".row[data-task]:not([hidden])")) window.firstRows = performance.now();
      else requestAnimationFrame(look);
    };
    look();
  });
  await page.goto(`${server.url}/${id}`, { waitUntil: "commit" });
  return page;
}

function tasks(long) {
  return long.length === 0 ? "no task over 50 ms" : `${long.length} tasks over 50 ms, the longest ${Math.round(Math.max(...long))} ms`;
}

function say(what, result) {
  console.log(`${what}: ${result}`);
}
