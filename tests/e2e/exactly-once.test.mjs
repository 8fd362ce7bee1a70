// However a run is interrupted, its log equals that of an undisturbed run, and agrees with the
// platform's own log. These are interruptions without a crash; crash.test.mjs has those by `kill
// -9`.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Records } from "./lib/checker.mjs";
import { Follower } from "./lib/follower.mjs";
import { harness } from "./lib/harness.mjs";
import { Gate, at, assertAgrees, assertDense, facts, lines, start } from "./lib/script.mjs";
import { REFERENCE, play } from "./lib/order.mjs";

let server;
let undisturbed;
before(async () => {
  server = await harness();
  undisturbed = facts(await play(server));
});
after(() => server?.stop());

test("the log of a run that nothing disturbs", () => {
  const shown = undisturbed.map(({ id, type, taskId, attempt }) => `${id} ${type} ${taskId}${attempt ? ` #${attempt}` : ""}`);
  assert.deepEqual(shown, REFERENCE);
});

describe("paused and resumed", () => {
  const pauseAndResume = async (run) => {
    await run.pause();
    await run.resume();
  };

  test("in mid-sleep", async () => {
    assert.deepEqual(facts(await play(server, { nap: pauseAndResume })), undisturbed);
  });

  test("in mid-wait", async () => {
    assert.deepEqual(facts(await play(server, { answer: pauseAndResume })), undisturbed);
  });

  test("while a step works", async () => {
    const slow = async (run, gate) => {
      await run.act("pause");
      await run.reached("waitingForPause");
      await gate.open();
      await run.reached("paused");
      await run.resume();
    };
    assert.deepEqual(facts(await play(server, { slow })), undisturbed);
  });

  test("everywhere, many times", async () => {
    const twice = async (run) => {
      await pauseAndResume(run);
      await pauseAndResume(run);
    };
    assert.deepEqual(facts(await play(server, { nap: twice, answer: twice })), undisturbed);
  });
});

describe("the object", () => {
  /** Evicts the object: its memory is gone, and so are the connections of the workflow and of viewers. */
  const goDown = async (run) => {
    const response = await fetch(`${run.url}/rpc/go_down`, { method: "POST" });
    assert.match(await response.text(), /the object goes down/);
  };

  test("is evicted while the workflow sleeps and while it waits", async () => {
    // A connection would prevent the eviction. So this also proves that the workflow has none then:
    // it would keep the object in memory, and cost for all of the time.
    const run = await start(server, [{ do: { name: "a" } }, { sleep: { name: "s", ms: 6000 } }, { wait: { name: "w", type: "go" } }]);
    const object = `alpha/${run.id}`;
    const logged = async (events) => {
      for (;;) {
        const query = "SELECT count(*) AS count FROM events";
        const [{ count }] = await server.sql("WorkflowEvents", object, query).catch(() => [{ count: 0 }]); // no table yet
        if (count >= events) return assert.equal(count, events);
      }
    };
    await logged(4);
    await server.evict("WorkflowEvents", object);
    await logged(6);
    await server.evict("WorkflowEvents", object);
    await run.event("go");
    const events = await run.readAll();
    assert.deepEqual(lines(events), [
      "1 started alpha-1.workflow",
      "2 started a-1",
      "3 completed a-1 #1",
      "4 started s-1.sleep",
      "5 completed s-1.sleep",
      "6 started w-1.waitForEvent",
      "7 completed w-1.waitForEvent",
      "8 completed alpha-1.workflow",
    ]);
    await run.ended();
    assertAgrees(events, await run.platform());
  });

  describe("goes down", () => {
    const workflow = "fragile";
    let reference;
    before(async () => {
      reference = facts(await play(server, {}, { workflow }));
    });

    test("between any two events, with a viewer", async () => {
      assert.deepEqual(facts(await play(server, { every: goDown }, { workflow })), reference);
    });

    test("in the middle of a step, a sleep and a wait, without a viewer", async () => {
      const alone = async (run, gate, client) => {
        client.close();
        await goDown(run);
      };
      assert.deepEqual(facts(await play(server, { slow: alone, nap: alone, answer: alone }, { workflow })), reference);
    });
  });
});

describe("restart()", () => {
  const script = (gate) => [
    { do: { name: "a" } },
    { do: { name: "flaky", attempts: [{ fail: "no" }], retries: { limit: 1, delay: 10, backoff: "constant" } } },
    { do: { name: "b", gate: gate.name } },
    { sleep: { name: "s", ms: 100 } },
    { do: { name: "a" } },
  ];
  const once = [
    "started alpha-1.workflow",
    "started a-1",
    "completed a-1 #1",
    "started flaky-1",
    "attempt_failed flaky-1 #1 (no)",
    "completed flaky-1 #2",
    "started b-1",
    "completed b-1 #1",
    "started s-1.sleep",
    "completed s-1.sleep",
    "started a-2",
    "completed a-2 #1",
    "completed alpha-1.workflow",
  ];
  const withIds = (shown, first = 1) => shown.map((line, index) => `${first + index} ${line}`);

  test("after the end: a client that got the end gets the second run", async () => {
    const gate = new Gate(server, "restart-1");
    await gate.open();
    const run = await start(server, script(gate));
    const records = new Records();
    const client = new Follower(run, records);
    await client.next();
    assert.deepEqual(lines(await client.rest()), withIds(once)); // it got a 204
    await run.ended();

    await run.act("restart");
    const restarted = await client.next();
    assert.equal(restarted.type, "restarted");
    assert.deepEqual({ ...restarted.json, timestamp: undefined }, { run: 2, timestamp: undefined });
    const events = await client.rest();
    assertDense(events);
    assert.deepEqual(lines(events.slice(14)), withIds(once, 15));
    await run.ended();
    assertAgrees(events.slice(14), await run.platform());
    const stored = await run.readAll();
    records.stored(run.id, stored, await run.platform());
    records.check();
    assert.deepEqual(stored.map(({ raw }) => raw), events.map(({ raw }) => raw));
  });

  test("in the middle of a step: the first run stays as it was, the second is whole", async () => {
    const gate = new Gate(server, "restart-2");
    const run = await start(server, script(gate));
    const client = new Follower(run);
    await client.until(at("started", "b-1"));
    await run.act("restart");
    await client.until(({ type }) => type === "restarted");
    await client.until(at("started", "b-1"));
    await gate.open(); // for both: the first run's code may still be there
    const events = await client.rest();
    assertDense(events);
    assert.deepEqual(lines(events.slice(0, 7)), withIds(once.slice(0, 7)));
    assert.equal(events[7].type, "restarted");
    assert.deepEqual(lines(events.slice(8)), withIds(once, 9));
    assert.equal((await run.ended()).state, "complete");
    assertAgrees(events.slice(8), await run.platform());
  });

  test("in the middle of a sleep, twice", async () => {
    const run = await start(server, [{ do: { name: "a" } }, { sleep: { name: "s", ms: 6000 } }]);
    const client = new Follower(run);
    for (let time = 0; time < 2; time += 1) {
      await client.until(at("started", "s-1.sleep"));
      await run.act("restart");
      await client.until(({ type }) => type === "restarted");
    }
    const events = await client.rest();
    const begun = ["started alpha-1.workflow", "started a-1", "completed a-1 #1", "started s-1.sleep"];
    const whole = [...begun, "completed s-1.sleep", "completed alpha-1.workflow"];
    assert.deepEqual(lines(events), withIds([...begun, "restarted", ...begun, "restarted", ...whole]));
    assert.deepEqual(events.filter(({ type }) => type === "restarted").map(({ json }) => json.run), [2, 3]);
  });
});
