// A run that has everything, and ways to disturb it.
import assert from "node:assert/strict";

import { Records } from "./checker.mjs";
import { Follower } from "./follower.mjs";
import { Gate, at, assertAgrees, assertDense, start } from "./script.mjs";

/** The ops of the run, with a gate for its slow step. */
export const ORDER = (gate) => [
  { do: { name: "first", progress: [50], attributes: { size: 3 } } },
  { do: { name: "flaky", attempts: [{ fail: "not yet" }], retries: { limit: 3, delay: 10, backoff: "constant" } } },
  { group: { name: "part", ops: [{ do: { name: "slow", progress: [25, 75], gate: gate.name } }, { do: { name: "first" } }] } },
  { sleep: { name: "nap", ms: 1500 } },
  { wait: { name: "answer", type: "go" } },
  { do: { name: "last" } },
];

/** Its log. */
export const REFERENCE = [
  "1 started alpha-1.workflow",
  "2 started first-1",
  "3 progress first-1",
  "4 completed first-1 #1",
  "5 started flaky-1",
  "6 attempt_failed flaky-1 #1",
  "7 completed flaky-1 #2",
  "8 started part-1.group",
  "9 started slow-1",
  "10 progress slow-1",
  "11 progress slow-1",
  "12 completed slow-1 #1",
  "13 started first-2",
  "14 completed first-2 #1",
  "15 completed part-1.group",
  "16 started nap-1.sleep",
  "17 completed nap-1.sleep",
  "18 started answer-1.waitForEvent",
  "19 completed answer-1.waitForEvent",
  "20 started last-1",
  "21 completed last-1 #1",
  "22 completed alpha-1.workflow",
];

let number = 0;

/**
 * Plays the run to its end and returns its log, after comparing it with the platform's log and with
 * the events of a client that came back after each interruption. The rules of tests/checker are
 * checked too.
 *
 * `disturb` has functions of `(run, gate, client)`, called in the middle of the tasks of their
 * names; `every` is called after every event. `options` are those of `start`.
 */
export async function play(server, disturb = {}, options = {}) {
  const gate = new Gate(server, `gate-${(number += 1)}`);
  const run = await start(server, ORDER(gate), options);
  const records = new Records();
  const client = new Follower(run, records);
  const until = async (holds) => {
    for (;;) {
      const event = await client.next();
      await disturb.every?.(run, gate, client);
      if (holds(event)) return;
    }
  };
  await until(at("started", "slow-1"));
  await disturb.slow?.(run, gate, client);
  await gate.open();
  await until(at("started", "nap-1.sleep"));
  await disturb.nap?.(run, gate, client);
  await until(at("started", "answer-1.waitForEvent"));
  await disturb.answer?.(run, gate, client);
  await run.event("go");
  const seen = await client.rest();

  const { state } = await run.ended();
  if (state !== "complete") throw new Error(`the run is ${state}`);
  const events = await run.readAll();
  assertDense(events);
  assert.deepEqual(seen.map(({ raw }) => raw), events.map(({ raw }) => raw));
  const platform = await run.platform();
  assertAgrees(events, platform);
  records.transcript(run.id, "late", { events });
  records.stored(run.id, events, platform);
  records.check();
  return events;
}
