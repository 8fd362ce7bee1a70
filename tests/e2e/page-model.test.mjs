// The page's model, without a browser.  node --test tests/e2e/page-model.test.mjs
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { made } from "../../scripts/page.mjs";
import { Axis, foldsOf, lookOf, segmentsOf } from "../../src/page/element/axis.js";
import { leftOf, remains } from "../../src/page/element/estimate.js";
import { Run, preorder, taskView } from "../../src/page/element/model.js";
import { Rows } from "../../src/page/element/rows.js";
import { brief, duration, readable } from "../../src/page/element/text.js";
import { labelOf } from "../../src/page/element/timeline.js";
import { DAY, Script, bigSnapshot, order } from "./lib/page-runs.mjs";

const FOLDER = new URL("../../src/page/", import.meta.url);
const END = Date.UTC(2026, 10, 24, 12);

test("the served files agree with the sources, and are small", () => {
  let [run, runs] = [0, 0];
  for (const [name, text] of Object.entries(made())) {
    assert.equal(readFileSync(new URL(name, FOLDER), "utf8"), text, `${name}: run node scripts/page.mjs`);
    const bytes = gzipSync(text, { level: 9 }).length;
    if (name.startsWith("workflow-runs.")) runs += bytes;
    else run += bytes;
  }
  assert.ok(run <= 24 * 1024, `${run} bytes of the run's page after gzip`);
  assert.ok(runs <= 12 * 1024, `${runs} bytes of the list of runs after gzip`);
});

test("the module can be imported without a document, and defines nothing there", async () => {
  const { WorkflowRun } = await import("../../src/page/workflow-run.js");
  assert.equal(typeof WorkflowRun, "function");
});

test("events give the same view as RunView", () => {
  const runs = JSON.parse(readFileSync(new URL("../page/folds.json", import.meta.url), "utf8"));
  for (const { name, events, view } of runs) {
    assert.deepEqual(flat(fold(events)), view, name);
  }
});

test("a snapshot and the events after it make the same as all events", () => {
  for (const until of ["live", "waiting", "failed", "done"]) {
    const events = order(END, { until });
    for (let at = 0; at <= events.length; at += 3) {
      const run = new Run();
      run.load(JSON.parse(JSON.stringify({ id: "o-1", ...fold(events.slice(0, at)).view })));
      run.id = null;
      events.slice(at).forEach(([type, data], index) => run.apply(type, data, at + index + 1));
      assert.deepEqual(sorted(flat(run)), sorted(flat(fold(events))), `${until} after ${at}`);
      assert.deepEqual(run.counts, fold(events).counts);
      assert.equal(run.errors, run.tasks.filter(({ state, failedAttempts }) => state === "failed" || failedAttempts.length > 0).length);
      assert.equal(run.open.size, fold(events).open.size);
      assert.equal(run.activity.busy, fold(events).activity.busy, `${until} after ${at}`);
      assert.equal(run.phase, fold(events).phase);
    }
  }
});

test("what remains is said in the words of the terminal, and only of what is known", () => {
  const cases = JSON.parse(readFileSync(new URL("../page/estimates.json", import.meta.url), "utf8"));
  assert.ok(cases.length > 20);
  for (const [lowMs, medianMs, highMs, took, words] of cases) assert.equal(remains({ lowMs, medianMs, highMs }, took), words);
  const known = { lowMs: 1000, medianMs: 2000, highMs: 4000 };
  assert.deepEqual([leftOf(known, 0, 0), leftOf(known, 0, 5000), leftOf(known, 9000, 0)], ["left: about 2 s, usually 1 to 4 s", "longer than usual", "left: about 2 s, usually 1 to 4 s"]);
  for (const bad of [null, undefined, 7, "x", [], {}, { ...known, lowMs: "1" }, { ...known, highMs: Infinity }]) assert.equal(leftOf(bad, 0, 0), "");
  assert.equal(leftOf(known, null, 0), "");
  const run = new Run();
  run.load({ state: "running", started: "2026-11-24T09:00:00.000Z", estimate: { run: known, tasks: { "pack-1": known } }, tasks: [{ taskId: "pack-1", step: "pack", started: "2026-11-24T09:00:00.000Z", percent: 40 }, { taskId: "__proto__", step: "p" }] });
  const [pack, other] = ["pack-1", "__proto__"].map((id) => run.byId.get(id));
  assert.equal(labelOf(pack, pack.started, run.estimate), "40 % · left: about 2 s, usually 1 to 4 s");
  assert.equal(labelOf(other, pack.started, run.estimate), "");
  assert.deepEqual(run.view.estimate.run, known);
  run.apply("completed", { taskId: "pack-1", kind: "do", timestamp: "2026-11-24T09:00:01.000Z" }, 3);
  assert.equal(labelOf(pack, pack.started, run.estimate), "");
  run.apply("completed", { taskId: "order-1.workflow", kind: "workflow", parentId: null, timestamp: "2026-11-24T09:00:02.000Z" }, 4);
  assert.equal(run.view.estimate, undefined);
});

test("of a snapshot, too, nothing is folded while a step is at work", () => {
  const at = (s) => new Date(END + s * 1000).toISOString();
  const run = new Run();
  run.load({ state: "running", started: at(0), tasks: [{ taskId: "long-1", step: "long", state: "running", started: at(0) }, { taskId: "late-1", step: "late", state: "completed", started: at(600), ended: at(601) }] });
  assert.deepEqual(run.activity.until(END + 1_200_000), []);
  assert.equal(run.activity.busy, 1);
});

test("an event that was applied before changes nothing", () => {
  const run = fold(order(END));
  const before = run.view;
  assert.equal(run.apply("completed", { taskId: "check stock-1", timestamp: "2026-11-24T09:00:00Z" }, 5), undefined);
  assert.deepEqual(run.view, before);
});

test("reset starts over, and shows tasks whose beginning is lost", () => {
  const run = fold(order(END));
  assert.equal(run.apply("reset", { requested: 40, oldest: 5, head: 9 }, null), null);
  assert.deepEqual(run.lost, { requested: 40, oldest: 5, head: 9 });
  assert.equal(run.tasks.length, 0);
  run.apply("progress", { taskId: "a-1", step: "a", kind: "do", count: 1, parentId: null, percent: 3, timestamp: new Date(END).toISOString() }, 5);
  assert.equal(run.tasks[0].percent, 3);
  assert.equal(run.cursor, 5);
});

test("the run's activity is shown even if it only waits or sleeps, or has no workflow", () => {
  const s = new Script(END).begin();
  assert.equal(fold(s.events).phase, "running");
  const nap = s.task("nap", { kind: "sleep" });
  assert.equal(fold(s.events).phase, "sleeping");
  const wait = s.task("ask", { kind: "waitForEvent" });
  assert.equal(fold(s.events).phase, "waiting");
  s.task("work");
  assert.equal(fold(s.events).phase, "running");
  s.done(wait).done(nap).end();
  assert.equal(fold(s.events).phase, "completed");

  const spans = new Script(END);
  const span = spans.task("request");
  assert.equal(fold(spans.events).phase, "running");
  spans.wait(5).done(span);
  assert.equal(fold(spans.events).phase, "completed");
  assert.equal(fold(spans.events).to, END + 5);
});

test("malformed and hostile data changes nothing else", () => {
  const run = new Run();
  for (const data of [null, 1, "x", [], {}, { taskId: 7 }, { taskId: {} }]) assert.equal(run.apply("started", data, null), undefined);
  assert.equal(run.apply("constructor", { taskId: "a" }, null), undefined);
  run.apply("started", { taskId: "__proto__", step: "__proto__", kind: "__proto__", count: "x", parentId: "__proto__", timestamp: "never" }, 1);
  run.apply("progress", { taskId: "__proto__", percent: "NaN", attributes: JSON.parse('{"__proto__":{"x":1}}') }, 2);
  run.apply("progress", { taskId: "__proto__", percent: 1e9 }, 3);
  assert.equal({}.x, undefined);
  assert.equal(run.tasks[0].percent, 100);
  assert.equal(run.tasks[0].started, null);
  for (const snapshot of [{}, { tasks: 7 }, { tasks: [null, 1, { taskId: 3 }, { taskId: "a", tasks: [{ taskId: "a" }], failedAttempts: [null, {}] }] }]) new Run().load(snapshot);
});

test("a snapshot may be nested deeply", () => {
  let tasks = [];
  for (let n = 0; n < 20_000; n += 1) tasks = [{ taskId: `${n}`, step: "s", kind: "do", count: 1, parentId: null, state: "running", tasks }];
  const run = new Run();
  run.load({ state: "running", tasks });
  assert.equal(run.tasks.length, 20_000);
  assert.equal([...preorder(run.roots)].length, 20_000);
});

// ------------------------------------------------------------------ the rows

test("rows are in the order of the tree, and hidden inside of collapsed groups", () => {
  const run = fold(order(END));
  const rows = new Rows();
  rows.clear();
  const names = () => rows.of(run.roots).map(({ step }) => step);
  assert.deepEqual(names().slice(2, 7), ["let the glue dry", "fulfil", "pack parcels", "print label", "declare to customs"]);
  run.byId.get("fulfil-1.group").collapsed = true;
  rows.stale = true;
  assert.deepEqual(names().slice(2, 6), ["let the glue dry", "fulfil", "wait for approval", "book the courier"]);
  rows.of(run.roots).forEach((task, index) => assert.equal(task.row, index));
  assert.equal(run.byId.get("print label-1").row, -1);
});

test("rows that are added one by one are those of the whole tree", () => {
  for (const { events } of JSON.parse(readFileSync(new URL("../page/folds.json", import.meta.url), "utf8"))) {
    const run = new Run();
    const rows = new Rows();
    for (const [type, data] of events) {
      const task = run.apply(type, data, null);
      if (task === null) rows.clear();
      else if (task !== undefined) rows.changed(task);
    }
    assert.deepEqual(rows.of(run.roots), [...preorder(run.roots)]);
  }
});

test("a task that begins at the end does not rebuild the list", () => {
  const run = new Run();
  const rows = new Rows();
  const s = new Script(END).begin();
  const group = s.task("group", { group: true });
  for (let n = 0; n < 1000; n += 1) s.step("inner", 1, { parent: group });
  s.step("outer", 1);
  for (const [type, data] of s.events) {
    const task = run.apply(type, data, null);
    if (task) rows.changed(task);
    assert.equal(rows.stale, false);
  }
  assert.equal(rows.list.length, 1002);
});

test("a filter keeps what matches, and the groups around it", () => {
  const run = fold(order(END));
  const rows = new Rows();
  const names = (text, errorsOnly = false) => {
    rows.filter(text, errorsOnly);
    return rows.of(run.roots).map(({ step }) => step);
  };
  assert.deepEqual(names("LABEL"), ["fulfil", "print label"]);
  assert.equal(rows.matches, 1);
  assert.deepEqual(names("", true), ["charge card", "fulfil", "declare to customs", "ship", "notify the warehouse"]);
  assert.deepEqual(names("no such thing"), []);
  assert.equal(names(" ").length, 15);
});

// ------------------------------------------------------------------ the axis

test("long idle time is folded, the longest first, as long as it is more than 5 % of the rest", () => {
  const gap = (from, to) => ({ from: from * 1000, to: to * 1000 });
  assert.deepEqual(foldsOf(0, 100_000, [gap(10, 19)]), []);
  assert.deepEqual(foldsOf(0, 100_000, [gap(10, 30)]), [gap(10, 30)]);
  // An hour next to a day.
  const day = gap(10, 86_410);
  const hour = gap(86_420, 90_020);
  assert.deepEqual(foldsOf(0, 90_030_000, [hour, day]), [day, hour]);
  const many = Array.from({ length: 100 }, (_, n) => gap(n * 40, n * 40 + 15));
  assert.equal(foldsOf(0, 4_000_000, many).length, 0);
});

test("only sleeps, waits and pauses between attempts are idle", () => {
  const s = new Script(END).begin();
  const work = s.task("work");
  s.wait(3_600_000).done(work);
  const nap = s.task("nap", { kind: "sleep" });
  s.wait(7_200_000).done(nap);
  const retried = s.task("retried");
  s.wait(1000).failAttempt(retried, 1, "no", { retryAt: s.at(600_000) }).wait(610_000).done(retried, { attempt: 2 });
  const gaps = fold(s.events).activity.gaps.map(({ from, to }) => to - from);
  assert.deepEqual(gaps, [7_200_000, 600_000]);
  // Something else runs meanwhile.
  const both = new Script(END).begin();
  const sleep = both.task("nap", { kind: "sleep" });
  const other = both.task("work");
  both.wait(DAY).done(other).done(sleep);
  assert.deepEqual(fold(both.events).activity.gaps, []);
});

test("a gap that is open goes on until now", () => {
  const run = fold(order(END, { until: "waiting" }));
  const gaps = run.activity.until(END + DAY);
  assert.equal(gaps.at(-1).to, END + DAY);
  assert.equal(run.activity.gaps.length, gaps.length - 1);
});

test("an axis is monotonic, and leaves most of its width to activity", () => {
  const run = fold(order(END, { until: "done" }));
  const folds = foldsOf(run.from, run.to, run.activity.until(run.to));
  assert.equal(folds.length, 2);
  const axis = new Axis(run.from, run.to, folds, 800);
  let before = -1;
  for (let time = run.from - 10; time <= run.to + 10; time += (run.to - run.from) / 5000) {
    const x = axis.at(time);
    assert.ok(x >= before && x >= 0 && x <= 1);
    before = x;
  }
  assert.equal(axis.at(run.to), 1);
  const card = run.byId.get("charge card-1");
  assert.ok(axis.at(card.ended) - axis.at(card.started) > 0.2);
  assert.ok(axis.folds.every(({ width }) => width < 0.08));
  const unfolded = new Axis(run.from, run.to, [], 800);
  assert.ok(unfolded.at(card.ended) - unfolded.at(card.started) < 0.001);
});

test("ticks do not touch each other or a fold, whatever the length", () => {
  for (const length of [0, 1, 7, 90, 1500, 61_000, 4_000_000, 10 * DAY, 900 * DAY]) {
    for (const width of [1, 200, 900]) {
      const ticks = new Axis(END, END + length, [], width).ticks();
      assert.ok(ticks.length <= Math.max(1, width / 60), `${length} in ${width}: ${ticks.length}`);
      ticks.slice(1).forEach(({ x }, n) => assert.ok((x - ticks[n].x) * width >= 71, `${length} in ${width}`));
    }
  }
});

test("a bar has a segment for each attempt, and not too many", () => {
  const run = fold(order(END, { until: "failed" }));
  const looks = (id) => segmentsOf(run.byId.get(id), END).map(({ look }) => look);
  assert.deepEqual(looks("check stock-1"), ["completed"]);
  assert.deepEqual(looks("charge card-1"), ["attempt", "attempt", "completed"]);
  assert.deepEqual(looks("hand over-1"), ["attempt", "attempt", "attempt"]);
  assert.deepEqual(looks("tell the customer-1"), ["stopped"]);
  // The log says only a moment after the last attempt that it was the last.
  const late = new Script(END).begin();
  const task1 = late.task("late");
  late.wait(20).failAttempt(task1, 1, "no").wait(20).fail(task1, "no", { attempt: 1 });
  assert.deepEqual(segmentsOf(fold(late.events).byId.get("late-1"), END), [{ from: END, to: END + 40, look: "attempt" }]);
  const s = new Script(END).begin();
  const stubborn = s.task("stubborn");
  for (let n = 1; n <= 500; n += 1) s.wait(10).failAttempt(stubborn, n, "no", { retryAt: s.at(5) });
  const task = fold(s.events).byId.get("stubborn-1");
  const segments = segmentsOf(task, s.time + 100);
  assert.ok(segments.length <= 13, `${segments.length}`);
  segments.slice(1).forEach(({ from }, n) => assert.equal(from, segments[n].to));
  assert.equal(lookOf(task), "retrying");
});

test("the critical path leads from the end to the beginning, and is not marked if it is everything", () => {
  const run = fold(order(END, { until: "done" }));
  assert.ok(run.hasCriticalPath);
  const path = run.tasks.filter(({ critical }) => critical).map(({ step }) => step);
  assert.deepEqual(path, ["check stock", "charge card", "let the glue dry", "pack parcels", "wait for approval", "book the courier", "load parcel 1", "load parcel 2", "load parcel 3", "notify the warehouse", "send the invoice"]);
  assert.equal(run.slowest.step, "charge card");
  const s = new Script(END).begin();
  s.step("a", 5).step("b", 5).end();
  assert.equal(fold(s.events).hasCriticalPath, false);
});

// ------------------------------------------------------------------- the words

test("durations", () => {
  const cases = [
    [-5, "0 ms", "0 s"], [0, "0 ms", "0 s"], [999, "999 ms", "0 s"], [999.7, "1.0 s", "0 s"], [2149, "2.1 s", "2 s"], [9949, "9.9 s", "9 s"], [9950, "10 s", "9 s"],
    [59_999, "1 min 00 s", "59 s"], [65_000, "1 min 05 s", "1 min 05 s"], [3_720_000, "1 h 02 min", "1 h 02 min"], [183_600_000, "2 d 03 h", "2 d 03 h"],
  ];
  for (const [ms, exact, live] of cases) {
    assert.equal(duration(ms), exact);
    assert.equal(duration(ms, true), live);
  }
  assert.deepEqual([5, 1500, 90_000, 7_200_000, 1.1 * DAY, 40 * DAY].map(brief), ["5 ms", "1.5 s", "1.5 min", "2 h", "1.1 d", "40 d"]);
});

test("text from outside cannot move, hide or imitate", () => {
  assert.equal(readable("a\u202eb\u0000c\u200bd"), "a‹202E›b␀c‹200B›d");
  assert.equal(readable("a\nb\r\tc"), "a b c");
  assert.equal(readable("a\nb\tc", 10, true), "a\nb\tc");
  assert.equal(readable("x".repeat(1_000_000)).length, 241);
  assert.match(readable("x".repeat(1_000_000), 10, true), /^x{10}… \(999,990 characters more\)$/);
  assert.equal(readable(null), "");
  assert.equal(readable({ toString: () => "x" }), "x");
  assert.equal(readable("👩‍👩‍👧 क्‍ष"), "👩‍👩‍👧 क्‍ष");
});

test("100,000 events open from a snapshot, and each event after it costs the same", () => {
  const run = new Run();
  run.load(bigSnapshot("big", 100_000));
  assert.equal(run.tasks.length, 33_667);
  const rows = new Rows();
  rows.clear();
  assert.equal(rows.of(run.roots).length, 33_667);
  const s = new Script(Date.now());
  s.step("one more", 5);
  for (const [type, data] of s.events) rows.changed(run.apply(type, data, null));
  assert.equal(rows.stale, false);
  assert.equal(rows.list.at(-1).step, "one more");
});

function fold(events) {
  const run = new Run();
  events.forEach(([type, data], index) => run.apply(type, data, index + 1));
  return run;
}

/** Returns the view in the form of `RunView`: one list of tasks. */
function flat(run) {
  const { tasks, taskCount, id, workflow, ...view } = run.view;
  return { ...view, tasks: run.tasks.map(taskView) };
}

function sorted(view) {
  return { ...view, tasks: [...view.tasks].sort((a, b) => (a.taskId < b.taskId ? -1 : 1)) };
}
