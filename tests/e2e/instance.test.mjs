// The platform's own log of an instance, through the library's `subscribe` and
// `serve_instance_sse`: it equals the log that plain JavaScript gets (`/platform`), each event
// once.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { harness } from "./lib/harness.mjs";
import { ORDER } from "./lib/order.mjs";
import { Gate, json, start } from "./lib/script.mjs";
import { open, readAll } from "./lib/sse.mjs";
import { becomes } from "./lib/wait.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

/** Everything that a run can do. */
const OPS = (gate) => [
  { do: { name: "first" } },
  { do: { name: "flaky", attempts: [{ fail: "not yet" }], retries: { limit: 2, delay: 10, backoff: "constant" } } },
  { do: { name: "slow", gate: gate.name } },
  { sleep: { name: "nap", ms: 50 } },
  { wait: { name: "answer", type: "go" } },
  { catch: { op: { wait: { name: "nothing", type: "never", timeout: 10 } }, rethrow: false } },
];

let number = 0;

async function begin(ops = OPS, options = {}) {
  const gate = new Gate(server, `instance-${(number += 1)}`);
  const run = await start(server, ops(gate), options);
  return { run, gate, url: `${run.url}/instance` };
}

const to = (type, stepName) => ({ type: of, json }) => of === type && (!stepName || json.stepName === stepName);

const logged = (type, stepName) => (event) => event.type === type && event.stepName === stepName;

/** The log as a viewer gets it by default. */
const redacted = (log) => log.map(({ params, output, ...event }) => event);

const datas = (events) => events.filter(({ type }) => type !== "reset").map(({ json }) => json);

/** Checks that a client gets the rest after each of these events, and a 204 after the last. */
async function assertResumes(url, events) {
  const ids = events.map(({ id }) => id);
  for (const position of [0, 1, 2, Math.floor(events.length / 2), events.length - 2]) {
    const rest = await readAll(url, { lastEventId: ids[position] });
    assert.deepEqual(rest.map(({ raw }) => raw), events.slice(position + 1).map(({ raw }) => raw), `after ${position}`);
  }
  const { status } = await fetch(url, { headers: { "last-event-id": `${ids.at(-1)}` } });
  assert.equal(status, 204);
}

for (const wrapped of [false, true]) {
  test(`a run is the platform's log, live and later (${wrapped ? "instrumented" : "not instrumented"})`, async () => {
    const { run, gate, url } = await begin(OPS, { wrapped });
    const subscribed = json(`${run.url}/subscribe`);
    const live = await open(url);
    await live.until(to("attempt_started", "slow-1"));
    await gate.open();
    await live.until(to("wait_started", "answer-1"));
    await run.event("go", { secret: "payload" });
    const events = await live.rest();
    await run.ended();

    const platform = await run.platform();
    assert.equal(platform.filter(({ type }) => type === "workflow_completed").length, 1);
    assert.deepEqual(datas(events), redacted(platform));
    assert.deepEqual(events.map(({ type }) => type), platform.map(({ type }) => type));
    assert.deepEqual(await subscribed, platform, "the stream of subscribe()");

    const { headers } = live.response;
    assert.equal(headers.get("content-type"), "text/event-stream");
    assert.equal(headers.get("cache-control"), "no-cache, no-transform");
    assert.equal(headers.get("x-accel-buffering"), "no");
    assert.equal(live.bytes.subarray(0, 2).toString(), ":\n", "a heartbeat first");
    assert.deepEqual((await readAll(url)).map(({ raw }) => raw), events.map(({ raw }) => raw));
    await assertResumes(url, events);

    const [queued, , running] = platform;
    const id = (index) => 1000 * (index < 2 ? queued : running).timestamp + platform[index].eventId;
    assert.deepEqual(events.map((event) => event.id), platform.map((_, index) => id(index)));
  });
}

describe("what is shown", () => {
  let run, url, platform;
  before(async () => {
    ({ run, url } = await begin(() => [{ do: { name: "a", value: { secret: 1 } } }, { do: { name: "b" } }]));
    await run.ended();
    platform = await run.platform();
  });

  test("no params and no outputs, unless the Worker's author asks for them", async () => {
    assert.ok(JSON.stringify(platform).includes("secret"));
    assert.deepEqual(datas(await readAll(url)), redacted(platform));
    assert.deepEqual(datas(await readAll(`${url}?show=params,outputs`)), platform);
    const onlyParams = platform.map(({ output, ...event }) => event);
    assert.deepEqual(datas(await readAll(`${url}?show=params`)), onlyParams);
    const onlyOutputs = platform.map(({ params, ...event }) => event);
    assert.deepEqual(datas(await readAll(`${url}?show=outputs`)), onlyOutputs);
  });

  test("of an error, its name and message", async () => {
    const failing = await begin(() => [{ do: { name: "a", attempts: [{ typeError: "no" }], retries: { limit: 0, delay: 0, backoff: "constant" } } }]);
    const events = await readAll(failing.url);
    const end = events.at(-1);
    assert.equal(end.type, "workflow_errored");
    assert.deepEqual(end.json.error, { name: "TypeError", message: "no" });
    assert.deepEqual(events.find(to("attempt_errored")).json.error, { name: "TypeError", message: "no" });
    assert.doesNotMatch(Buffer.from(events.map(({ raw }) => raw).join("")).toString(), /stack|\.js|wasm/);
    await failing.run.ended();
    assert.deepEqual(datas(events), redacted(await failing.run.platform()));
  });

  test("the types that are asked for, and the end", async () => {
    const all = await readAll(url);
    const of = (...types) => all.filter(({ type }) => types.includes(type)).map(({ raw }) => raw);
    const raws = async (query, options) => (await readAll(`${url}?${query}`, options)).map(({ raw }) => raw);
    const asked = of("step_started", "workflow_completed");
    assert.equal(asked.length, 3);
    assert.deepEqual(await raws("types=step_started"), asked);
    assert.deepEqual(await raws("types=step_started", { lastEventId: all[1].id }), asked);
    assert.deepEqual(await raws("types=step_started,workflow_queued"), of("step_started", "workflow_queued", "workflow_completed"));
    // A viewer cannot ask for fields that the author leaves out.
    assert.deepEqual(await raws("show=steps"), of("step_started", "step_completed", "workflow_completed"));
    assert.deepEqual(await raws("show=steps&types=step_started,workflow_started"), asked);
    const { status } = await fetch(`${url}?types=step_started`, { headers: { "last-event-id": `${all.at(-1).id}` } });
    assert.equal(status, 204);
  });

  test("from a time on, and from now on", async () => {
    const all = await readAll(url);
    const since = all[3].json.timestamp;
    const expected = all.filter(({ json: { timestamp } }) => timestamp >= since);
    const raws = (events) => events.map(({ raw }) => raw);
    assert.deepEqual(raws(await readAll(`${url}?since=${since}`)), raws(expected));
    assert.equal((await fetch(`${url}?from=latest`)).status, 204, "it has ended");

    const live = await begin();
    await (await open(live.url)).until(to("attempt_started", "slow-1"));
    const late = await open(`${live.url}?from=latest`);
    await live.gate.open();
    const { type, json: { stepName } } = await late.next();
    assert.deepEqual({ type, stepName }, { type: "attempt_completed", stepName: "slow-1" });
    late.close();
    await live.run.act("terminate");
  });

  test("part of it, by subscribe()", async () => {
    const subscribe = (query) => json(`${run.url}/subscribe?${query}`);
    assert.deepEqual(await subscribe("cursor=3"), platform.slice(3));
    const steps = platform.filter(({ type }) => type === "step_started");
    assert.deepEqual(await subscribe("filter=step_started"), steps);
    assert.deepEqual(await subscribe("cursor=9999"), []);
    assert.deepEqual(await subscribe("take=2"), platform.slice(0, 2));
  });
});

describe("an interrupted run", () => {
  test("paused and resumed, in mid-step and in mid-sleep", async () => {
    const { run, gate, url } = await begin((gate) => [{ do: { name: "slow", gate: gate.name } }, { sleep: { name: "nap", ms: 5000 } }, { wait: { name: "w", type: "go" } }]);
    const subscribed = json(`${run.url}/subscribe`);
    const live = await open(url);
    await live.until(to("attempt_started"));
    await run.act("pause");
    await live.until(to("workflow_waiting_for_pause"));
    await gate.open();
    await live.until(to("workflow_paused"));
    await run.reached("paused");
    await run.resume();
    await live.until(to("sleep_started"));
    await run.pause();
    await live.until(to("workflow_paused"));
    await run.resume();
    await live.until(to("wait_started"));
    await run.event("go");
    const events = await live.rest();
    await run.ended();
    const platform = await run.platform();
    assert.deepEqual(datas(events), redacted(platform));
    assert.deepEqual(await subscribed, platform);
    await assertResumes(url, events);
  });

  test("terminated", async () => {
    const { run, url } = await begin();
    const subscribed = json(`${run.url}/subscribe`);
    const live = await open(url);
    await live.until(to("attempt_started", "slow-1"));
    await run.act("terminate");
    const events = await live.rest();
    assert.equal(events.at(-1).type, "workflow_terminated");
    const platform = await run.platform();
    assert.deepEqual(datas(events), redacted(platform));
    assert.deepEqual(await subscribed, platform);
    await assertResumes(url, events);
  });

  test("restarted: no viewer misses events", async () => {
    const { run, gate, url } = await begin();
    const subscribed = json(`${run.url}/subscribe`);
    const live = await open(url);
    await live.until(to("attempt_started", "slow-1"));
    const held = live.events.map(({ id }) => id);
    await run.act("restart");
    const reset = await live.until("reset");
    await live.until(to("attempt_started", "slow-1"));
    await gate.open();
    await live.until(to("wait_started", "answer-1"));
    await run.event("go");
    await live.rest();
    await run.ended();

    const platform = await run.platform();
    assert.equal(platform[0].eventId, 1, "the platform numbers again from 1");
    const second = live.events.slice(live.events.indexOf(reset) + 1);
    assert.deepEqual(datas(second), redacted(platform));
    assert.deepEqual(reset.json, { requested: held.at(-1), oldest: second[0].id, head: null });
    assert.ok(second[0].id > held.at(-1));
    const ours = await subscribed;
    const restarted = ours.findIndex(({ kind }) => kind === "Restarted");
    assert.equal(restarted, held.length);
    assert.deepEqual(ours.slice(restarted + 1), platform);

    // A client comes back with an id of the first run.
    for (const lastEventId of [held[0], held[3], held.at(-1)]) {
      const [reset, ...events] = await readAll(url, { lastEventId });
      assert.equal(reset.type, "reset");
      assert.equal(reset.json.requested, lastEventId);
      assert.deepEqual(events.map(({ raw }) => raw), second.map(({ raw }) => raw));
    }
    await assertResumes(url, second);
  });

  test("restarted after its end: a viewer that got the end does not get it again", async () => {
    const { run, url } = await begin(() => [{ do: { name: "a" } }, { wait: { name: "w", type: "go", timeout: 60_000 } }]);
    await run.event("go");
    const first = await readAll(url);
    const headers = { "last-event-id": `${first.at(-1).id}` };
    assert.equal((await fetch(url, { headers })).status, 204);
    await run.act("restart");
    const again = await open(url, { lastEventId: first.at(-1).id });
    assert.equal((await again.next()).type, "reset");
    await again.until(to("wait_started"));
    await run.event("go");
    await again.rest();
    await run.ended();
    assert.deepEqual(datas(again.events), redacted(await run.platform()));
  });
});

test("restarted from a step: the kept events come again after a reset", async () => {
  const { run, url } = await begin(() => [{ do: { name: "a" } }, { do: { name: "b" } }, { wait: { name: "w", type: "go" } }, { do: { name: "c" } }]);
  await run.event("go");
  const first = await readAll(url);
  await run.ended();
  await json(`${server.url}/alpha/call`, { method: "POST", body: JSON.stringify({ restart: { id: run.id, from: { name: "b" } } }) });
  // One client got the end, one saw a kept event, one saw an event that is gone, and one is new.
  const held = [first.at(-1), first.find(to("step_completed", "a-1")), first.find(to("step_started", "b-1"))];
  const clients = await Promise.all([...held.map(({ id }) => open(url, { lastEventId: id })), open(url)]);
  await run.event("go");
  const logs = await Promise.all(clients.map((client) => client.rest()));
  await run.ended();
  const platform = await run.platform();
  assert.ok(platform.filter(logged("step_started", "a-1")).length === 1 && platform.filter(logged("step_started", "b-1")).length === 1);
  for (const [index, { id }] of held.entries()) {
    const [reset, ...events] = logs[index];
    assert.deepEqual([reset.type, reset.json.requested], ["reset", id]);
    assert.deepEqual(datas(events), redacted(platform));
  }
  assert.deepEqual(datas(logs.at(-1)), redacted(platform));
  await assertResumes(url, logs.at(-1));
});

test("deleted: a viewer is cut off, which is not the end, and then gets 404", async () => {
  const { run, url } = await begin();
  const live = await open(url);
  await live.until(to("attempt_started", "slow-1"));
  await json(`${server.url}/alpha/call`, { method: "POST", body: JSON.stringify({ delete: run.id }) });
  await live.rest().catch(() => {}); // it depends on the proxies whether the client sees the cut
  assert.equal(live.events.at(-1).type, "attempt_started");
  const { status } = await fetch(url, { headers: { "last-event-id": `${live.events.at(-1).id}` } });
  assert.equal(status, 404);
});

test("rolled back", async () => {
  const once = { limit: 0, delay: 0, backoff: "constant" };
  const steps = [
    { do: { name: "a", rollback: {} } },
    { do: { name: "b", rollback: { attempts: [{ fail: "stuck" }], retries: { limit: 1, delay: 10, backoff: "constant" } } } },
    { do: { name: "c", attempts: [{ fail: "no" }], retries: once } },
  ];
  const { run, url } = await begin(() => steps);
  const subscribed = json(`${run.url}/subscribe`);
  const events = await readAll(url);
  await run.ended();
  const platform = await run.platform();
  assert.deepEqual(datas(events), redacted(platform));
  assert.deepEqual(await subscribed, platform);
  const rollbacks = events.filter(({ type }) => type.startsWith("rollback_")).map(({ type, json }) => [type, json.stepName, json.attempt].filter(Boolean).join(" "));
  assert.deepEqual(rollbacks, [
    "rollback_started",
    "rollback_step_started b-1",
    "rollback_attempt_started b-1 1",
    "rollback_attempt_errored b-1 1",
    "rollback_attempt_started b-1 2",
    "rollback_attempt_completed b-1 2",
    "rollback_step_completed b-1",
    "rollback_step_started a-1",
    "rollback_attempt_started a-1 1",
    "rollback_attempt_completed a-1 1",
    "rollback_step_completed a-1",
    "rollback_completed",
  ]);
  const view = await json(`${server.url}/fold`, { method: "POST", body: JSON.stringify({ ours: await run.readAll(), platform }) });
  const rolledBack = view.platform.tasks.map(({ taskId, rollback }) => [taskId, rollback?.state, rollback?.attempt, rollback?.failedAttempts?.map(withoutTime)]);
  assert.deepEqual(rolledBack, [
    ["a-1", "completed", 1, undefined],
    ["b-1", "completed", 2, [{ attempt: 1, error: "stuck" }]],
    ["c-1", undefined, undefined, undefined],
  ]);
  assert.deepEqual([view.ours.state, view.platform.state, view.platform.error], ["failed", "failed", "no"]);
});

/** Returns a failed attempt without the time of its end: each observer takes its own. */
function withoutTime({ ended, ...attempt }) {
  assert.match(ended, /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
  return attempt;
}

describe("one view of both logs", () => {
  /** Removes what the table of `RunView` documents as visible in only one of the logs, or as different. */
  const shared = ({ state, error, tasks }) => ({
    state,
    error,
    tasks: tasks
      .filter(({ taskId }) => !taskId.endsWith(".group"))
      .map(({ started, ended, parentId, percent, message, attributes, until, failedAttempts, ...task }) => ({ ...task, failedAttempts: failedAttempts?.map(withoutTime), began: !!started, ended: !!ended })),
  });

  const fold = async (run) => {
    const logs = { ours: await run.readAll(), platform: await run.platform() };
    return json(`${server.url}/fold`, { method: "POST", body: JSON.stringify(logs) });
  };

  test("of a run that completes", async () => {
    const gate = new Gate(server, "view");
    const run = await start(server, ORDER(gate));
    await gate.open();
    await run.event("go");
    await run.ended();
    const { ours, platform } = await fold(run);
    assert.deepEqual(shared(ours), shared(platform));
    assert.equal(ours.state, "completed");
    assert.deepEqual(ours.tasks.map(({ taskId, state }) => `${taskId} ${state}`), [
      "first-1 completed",
      "flaky-1 completed",
      "part-1.group completed",
      "slow-1 completed",
      "first-2 completed",
      "nap-1.sleep completed",
      "answer-1.waitForEvent completed",
      "last-1 completed",
    ]);
    const flaky = platform.tasks.find(({ taskId }) => taskId === "flaky-1");
    assert.deepEqual([flaky.attempt, flaky.failedAttempts.map(withoutTime)], [2, [{ attempt: 1, error: "not yet" }]]);
    assert.equal(ours.tasks[4].parentId, "part-1.group");
    assert.deepEqual([ours.cursor, platform.cursor], [22, (await run.platform()).length]);
  });

  test("of a run that fails", async () => {
    const once = { limit: 0, delay: 0, backoff: "constant" };
    const run = await start(server, [{ do: { name: "a" } }, { do: { name: "b", attempts: [{ fail: "no" }], retries: once } }]);
    await run.ended();
    const { ours, platform } = await fold(run);
    assert.deepEqual(shared(ours), shared(platform));
    assert.deepEqual([ours.state, ours.error, ours.tasks[1].error], ["failed", "no", "no"]);
  });
});

describe("refusals", () => {
  let run, url;
  before(async () => {
    ({ run, url } = await begin(() => [{ do: { name: "a" } }]));
    await run.ended();
  });

  const refused = async (target, status, reason, init) => {
    const response = await fetch(target, init);
    assert.equal(response.status, status);
    assert.match(await response.text(), reason);
    return response;
  };

  test("404 for an unknown instance", async () => {
    for (const id of ["unknown", "a".repeat(101), "%F0%9F%92%A9", "-x"]) {
      await refused(`${server.url}/alpha/${id}/instance`, 404, /no workflow instance/);
    }
  });

  test("400 for a position or a type that cannot be", async () => {
    for (const id of ["0", "x", "-1", "1.5", "99999999999999999999"]) {
      await refused(url, 400, /invalid Last-Event-ID/, { headers: { "last-event-id": id } });
      await refused(`${url}?lastEventId=${id}`, 400, /invalid Last-Event-ID/);
    }
    await refused(`${url}?from=now`, 400, /invalid from/);
    for (const types of ["steps", "step_started,", "", "step_started,internal"]) {
      await refused(`${url}?types=${types}`, 400, /invalid types/);
    }
  });

  test("405 for methods that do not read", async () => {
    for (const method of ["POST", "PUT", "DELETE", "OPTIONS"]) {
      const response = await refused(url, 405, /GET/, { method });
      assert.equal(response.headers.get("allow"), "GET, HEAD");
    }
  });

  test("reset for an id that the log does not have", async () => {
    const all = await readAll(url);
    for (const lastEventId of [1, 17, all.at(-1).id + 1, Number.MAX_SAFE_INTEGER]) {
      const [reset, ...events] = await readAll(url, { lastEventId });
      assert.deepEqual(reset.json, { requested: lastEventId, oldest: all[0].id, head: null });
      assert.deepEqual(events.map(({ raw }) => raw), all.map(({ raw }) => raw));
    }
    // The parameter does the same as the header.
    const rest = await readAll(`${url}?lastEventId=${all[4].id}`);
    assert.deepEqual(rest.map(({ raw }) => raw), all.slice(5).map(({ raw }) => raw));
  });
});

describe("subscriptions of the platform are ended", () => {
  const openOnes = () => json(`${server.url}/open`);

  test("when a stream of events is dropped or at its end", async () => {
    const { run, gate } = await begin();
    await json(`${run.url}/subscribe?take=2`);
    await becomes(openOnes, 0);
    await gate.open();
    await run.event("go");
    await json(`${run.url}/subscribe`);
    await becomes(openOnes, 0);
  });

  test("when a viewer is gone", async () => {
    const { run, gate, url } = await begin((gate) => [{ do: { name: "slow", gate: gate.name } }, { many: { name: "step", steps: 30 } }, { wait: { name: "w", type: "go" } }]);
    const viewer = await open(url);
    await viewer.until(to("attempt_started", "slow-1"));
    await becomes(openOnes, 1);
    viewer.close();
    await gate.open(); // the runtime notices at a write
    await becomes(openOnes, 0);
    assert.notEqual((await run.status()).state, "complete", "not because it has ended");
    await run.act("terminate");
  });
});
