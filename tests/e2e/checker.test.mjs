// The checker of tests/checker as soaks and end-to-end tests call it: what it finds right, and a story for each rule that
// programs other than ours can break.
import assert from "node:assert/strict";
import { test } from "node:test";
import { LiveRecords, Records } from "./lib/checker.mjs";

const event = (id, data = `{"n":${id}}`) => ({ id, type: "said", data, raw: `id: ${id}\nevent: said\ndata: ${data}\n\n`, json: {} });
const fact = (id) => ({ type: "said", data: `{"n":${id}}` });
const three = [1, 2, 3].map((id) => event(id));

function append(records, ids) {
  records.whole("log");
  for (const id of ids) records.append("log", [fact(id)], { stored: [id] });
}

function sound(records) {
  append(records, [1, 2, 3]);
  records.append("log", [fact(9)], "refused");
  records.append("log", [fact(8)], "unknown");
  records.transcript("log", "all", { events: three, how: "cut" });
  records.asked("log", "late");
  records.transcript("log", "late", { from: "2", events: three.slice(2), how: "cut" });
  records.stored("log", three);
}

const broken = {
  Order: (records) => records.transcript("log", "v", { events: [event(2), event(1)], how: "cut" }),
  Gap: (records) => {
    append(records, [1, 2, 3]);
    records.transcript("log", "v", { events: [event(1), event(3)], how: "cut" });
    records.stored("log", three);
  },
  Twice: (records) => records.transcript("log", "v", { events: [event(1), event(1)], how: "cut" }),
  Prefix: (records) => {
    records.transcript("log", "v", { events: [event(1)], how: "cut" });
    records.transcript("log", "w", { events: [event(1, "{}")], how: "cut" });
  },
  Acknowledged: (records) => {
    append(records, [1, 2]);
    records.append("log", [fact(3)], "acknowledged");
    records.stored("log", three.slice(0, 2));
  },
  Once: (records) => {
    append(records, [1, 2, 3]);
    records.append("log", [{ type: "said", data: "no" }], "refused");
    records.stored("log", [...three, event(4, "no")]);
  },
  Invented: (records) => {
    append(records, [1, 2]);
    records.stored("log", three);
  },
  Reset: (records) => {
    append(records, [1, 2, 3]);
    records.connected("log", "v", "2");
    records.seen("log", "v", { id: null, type: "reset", data: '{"requested":2,"oldest":1,"head":3}' });
    records.stored("log", three);
  },
  End: (records) => {
    records.transcript("log", "v", { events: three, how: "clean" });
    records.stored("log", three);
  },
  Bytes: (records) => {
    records.transcript("log", "v", { events: [{ ...event(1), raw: "id: 1\ndata: x\n\n" }], how: "cut" });
    records.stored("log", three);
  },
};

test("what is as promised is found right", async () => {
  const [records, live] = [new Records(), new LiveRecords()];
  sound(records);
  sound(live);
  records.check();
  await live.check();
});

for (const [rule, story] of Object.entries(broken)) {
  test(`${rule} is checked`, async () => {
    const [records, live] = [new Records(), new LiveRecords()];
    story(records);
    story(live);
    const of = ({ message }) => message.includes(`${rule}: log: `);
    assert.throws(() => records.check(), of);
    await assert.rejects(live.check(), of);
  });
}

test("what is no record is said", async () => {
  const live = new LiveRecords();
  live.add("log", { seem: {} });
  await assert.rejects(live.check(), ({ message }) => message.includes("line 1 is no record"));
});

test("a long soak keeps no records here", async () => {
  const live = new LiveRecords();
  live.connected("log", "v");
  let waiting = 0;
  for (let id = 1; id <= 50_000; id += 1) {
    live.seen("log", "v", event(id));
    await live.drained();
    waiting = Math.max(waiting, live.waiting);
  }
  live.ended("log", "v", "cut");
  await live.check();
  assert.ok(waiting < 100_000, `${waiting} bytes wait for the checker`);
});
