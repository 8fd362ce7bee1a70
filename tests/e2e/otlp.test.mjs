// Traces of the demo's runs: compared with the log, read by a real receiver and another reader, and sent to receivers
// that are down, slow, busy or refuse.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { spawnSync } from "node:child_process";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { at } from "../../scripts/lib/run.mjs";
import { ensurePython } from "../../scripts/lib/python.mjs";
import { QUICK, answer, isWaiting, serve, startRun } from "./lib/demo.mjs";
import { freePort } from "./lib/ports.mjs";
import { receiver, rotel } from "./lib/receiver.mjs";
import { open, readAll } from "./lib/sse.mjs";
import { becomes } from "./lib/wait.mjs";

/** An order that fails at once. */
const FAILS = { ...QUICK, quantity: 0 };

const hex = (algorithm, ...parts) => parts.reduce((hash, part) => hash.update(part), createHash(algorithm)).digest("hex");
const uint = (bytes, number) => Buffer.from(BigInt(number).toString(16).padStart(2 * bytes, "0"), "hex");

/** Returns the id of a trace, by Sentry's rule. */
function traceId(instance) {
  const uuid = /^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$/i;
  return uuid.test(instance) ? instance.replaceAll("-", "").toLowerCase() : hex("sha1", instance).slice(0, 32);
}

/** Returns the id of the span of a task, of one of its attempts, or, without a task, of the run. */
function spanId(trace, task = "", attempt = 0) {
  return hex("sha256", Buffer.from(trace, "hex"), uint(4, attempt), uint(8, 5), "order", task).slice(0, 16);
}

const nanos = (timestamp) => `${Date.parse(timestamp)}000000`;

/** Returns the expected trace of a log: from the events alone, by the rules of docs/trace.md. */
function expected(instance, events) {
  const trace = traceId(instance);
  const spans = [];
  const begun = new Map();
  for (const { type, json } of events) {
    const { taskId, step, kind, timestamp, parentId, attempt, error = "" } = json;
    const isRoot = kind === "workflow";
    const id = isRoot ? spanId(trace) : spanId(trace, taskId);
    const add = (more) => spans.push({ trace, end: nanos(timestamp), events: [], message: "", ...more });
    const addAttempt = (failed) => {
      const task = begun.get(taskId);
      const events = failed ? ["exception"] : [];
      const number = attempt;
      add({ id: spanId(trace, taskId, number), parent: id, name: `${step} (attempt ${number})`, start: task.next, status: failed ? 2 : 1, message: error, events });
      Object.assign(task, { next: nanos(json.retryAt ?? timestamp), attempts: number });
    };
    if (type === "started") {
      const parent = isRoot ? "" : begun.has(parentId) && !parentId.endsWith(".workflow") ? spanId(trace, parentId) : spanId(trace);
      begun.set(taskId, { start: nanos(timestamp), next: nanos(timestamp), parent, events: [], attempts: 0 });
    } else if (type === "progress") {
      begun.get(taskId).events.push("progress");
    } else if (type === "attempt_failed") {
      addAttempt(true);
    } else {
      const failed = type === "failed";
      const task = begun.get(taskId);
      if (attempt > 1 && attempt > task.attempts) addAttempt(failed);
      const exception = failed && task.attempts === 0 ? ["exception"] : [];
      add({ id, parent: task.parent, name: step, start: task.start, status: failed ? 2 : 1, message: error, events: [...task.events, ...exception] });
    }
  }
  return spans;
}

/** Returns the spans of requests as plain JSON. */
function plain(...bodies) {
  const spans = bodies.flatMap((body) => JSON.parse(body).resourceSpans).flatMap(({ scopeSpans }) => scopeSpans).flatMap(({ spans }) => spans);
  return spans.map((span) => ({
    trace: span.traceId,
    id: span.spanId,
    parent: span.parentSpanId ?? "",
    name: span.name,
    start: span.startTimeUnixNano,
    end: span.endTimeUnixNano,
    status: span.status?.code ?? 0,
    message: span.status?.message ?? "",
    events: (span.events ?? []).map(({ name }) => name),
  }));
}

const inOrder = (spans) => spans.toSorted((a, b) => (a.id < b.id ? -1 : 1));
const sameSpans = (actual, wanted, message) => assert.deepEqual(inOrder(actual), inOrder(wanted), message);

/** Runs an order to its end, and resolves to its events. */
async function order(url, id, params = QUICK) {
  await startRun(url, { id, params });
  const live = await open(`${url}/${id}/sse`);
  await live.until(isWaiting);
  await answer(url, id);
  await live.rest();
  return live.events;
}

const trace = async (url, id, query = "") => {
  const response = await fetch(`${url}/${id}/otlp${query}`);
  assert.equal(response.status, 200);
  return response.text();
};

describe("readers that are not ours", () => {
  let python, agent, demo;
  before(async () => {
    python = await ensurePython("tests/otlp/requirements.txt");
    if (python.missing) return;
    agent = await rotel(python.packages);
    demo = await serve({ vars: { OTEL_EXPORTER_OTLP_ENDPOINT: agent.url } });
  });
  after(() => Promise.all([demo?.stop(), agent?.stop()]));

  const decode = (body) => {
    const { status, stdout, stderr } = spawnSync(python.python, [at("tests/otlp/decode.py")], { input: body, encoding: "utf8" });
    assert.equal(status, 0, stderr);
    return JSON.parse(stdout);
  };

  test("a whole order: rotel and the reader in Python agree with the log", async (t) => {
    if (python.missing) return t.skip(python.missing);
    const id = crypto.randomUUID();
    const events = await order(demo.url, id);
    const wanted = expected(id, events);
    assert.deepEqual(
      wanted.map(({ name }) => name).toSorted(),
      ["charge card", "charge card (attempt 1)", "charge card (attempt 2)", "check stock", "fulfil", "hand to carrier", "let the glue dry", "order", "pack parcel", "print label", "wait for approval"],
    );
    await becomes(() => inOrder(agent.spans()), inOrder(wanted), "the spans that rotel prints");
    const body = await trace(demo.url, id);
    sameSpans(plain(body), wanted);
    sameSpans(decode(body), wanted);
    assert.equal(await trace(demo.url, id), body, "the same bytes again");
    assert.match(agent.output(), /service\.name: Str\(order\)/);
    assert.match(agent.output(), /cents: Int\(7600\)/);
  });

  test("hostile texts, in a run that goes on and in one that has failed", async (t) => {
    if (python.missing) return t.skip(python.missing);
    const item = "\u0000\u001b[31m</script>\"\\\r\n\u2028\u202e🫖".repeat(3);
    await startRun(demo.url, { id: "hostile", params: { ...QUICK, item, quantity: 0 } });
    const events = await readAll(`${demo.url}/hostile/sse`);
    const body = await trace(demo.url, "hostile");
    const wanted = expected("hostile", events);
    assert.ok(wanted.some(({ message }) => message.includes("🫖")));
    sameSpans(decode(body), wanted);
    sameSpans(plain(body), wanted);

    const id = await startRun(demo.url, { params: { ...QUICK, item } });
    const live = await open(`${demo.url}/${id}/sse`);
    await live.until(isWaiting);
    const names = async (query) => decode(await trace(demo.url, id, query)).map(({ name }) => name);
    const ended = await names("");
    assert.ok(ended.includes("pack parcel") && !ended.includes("order") && !ended.includes("wait for approval"));
    assert.deepEqual((await names("?partial")).slice(ended.length), ["wait for approval", "order"]);
    live.close();
  });
});

describe("GET /<id>/otlp", () => {
  let demo;
  before(async () => {
    demo = await serve({ vars: { OTEL_SERVICE_NAME: "shop", OTEL_RESOURCE_ATTRIBUTES: "deployment.environment.name=test%2C1" } });
  });
  after(() => demo?.stop());

  test("needs no exporter", async () => {
    await startRun(demo.url, { id: "fails", params: FAILS });
    const events = await readAll(`${demo.url}/fails/sse`);
    const response = await fetch(`${demo.url}/fails/otlp`);
    assert.equal(response.headers.get("content-type"), "application/json");
    assert.equal(response.headers.get("cache-control"), "no-store");
    const body = await response.text();
    sameSpans(plain(body), expected("fails", events));
    const [{ resource }] = JSON.parse(body).resourceSpans;
    assert.deepEqual(resource.attributes, [
      { key: "service.name", value: { stringValue: "shop" } },
      { key: "deployment.environment.name", value: { stringValue: "test,1" } },
    ]);
  });

  test("statuses", async () => {
    const status = async (path, init) => (await fetch(demo.url + path, init)).status;
    assert.equal(await status("/unknown/otlp"), 404);
    assert.equal(await status("/-/otlp"), 404);
    const head = await fetch(`${demo.url}/fails/otlp`, { method: "HEAD" });
    assert.deepEqual([head.status, head.headers.get("content-type"), await head.text()], [200, "application/json", ""]);
    const post = await fetch(`${demo.url}/fails/otlp`, { method: "POST" });
    assert.deepEqual([post.status, post.headers.get("allow")], [405, "GET, HEAD"]);
  });
});

describe("the exporter", () => {
  let demo, to;
  before(async () => {
    // A port that nobody else gets while the receiver is down.
    to = await receiver({ port: await freePort() });
    const headers = "Authorization=Basic%20YTpi,x-scope=orders";
    demo = await serve({ vars: { OTEL_EXPORTER_OTLP_ENDPOINT: `${to.url}/`, OTEL_EXPORTER_OTLP_HEADERS: headers, OTEL_EXPORTER_OTLP_TIMEOUT: "8000" } });
  });
  after(() => Promise.all([demo?.stop(), to?.stop()]));

  /** Exports a run that fails at once to a receiver that behaves like this. Resolves to its events. */
  async function failingRun(id, behave = () => {}) {
    to.requests.length = 0;
    to.behave = behave;
    await startRun(demo.url, { id, params: FAILS });
    return readAll(`${demo.url}/${id}/sse`);
  }

  /** Checks that nothing more is sent, and that viewers still get the log. */
  async function isQuiet(id, events, count) {
    await sleep(6_500);
    assert.equal(to.requests.length, count);
    assert.deepEqual(await readAll(`${demo.url}/${id}/sse`), events);
  }

  test("sends a run once, with the headers, and the log stays", async () => {
    const events = await failingRun("once");
    await to.until(1);
    const [{ method, path, headers, body }] = to.requests;
    assert.deepEqual([method, path], ["POST", "/v1/traces"]);
    assert.equal(headers["content-type"], "application/json");
    assert.equal(headers.authorization, "Basic YTpi");
    assert.equal(headers["x-scope"], "orders");
    sameSpans(plain(body), expected("once", events));
    assert.equal(body, await trace(demo.url, "once"));
    await isQuiet("once", events, 1);
  });

  test("429 with Retry-After: the same bytes, not before", async () => {
    const events = await failingRun("busy", (count) => (count === 1 ? { status: 429, headers: { "retry-after": "6" } } : undefined));
    await to.until(2);
    const [first, second] = to.requests;
    assert.ok(second.time - first.time >= 5_900, `${second.time - first.time} ms`);
    assert.equal(second.body, first.body);
    sameSpans(plain(second.body), expected("busy", events));
  });

  test("503, and no answer in time: the same bytes later, and viewers wait for nothing", async () => {
    let free;
    const hangs = new Promise((resolve) => (free = resolve));
    const events = await failingRun("slow", (count) => [{ status: 503 }, hangs][count - 1]);
    assert.equal(events.length, 5);
    await to.until(2);
    const started = Date.now();
    assert.deepEqual(await readAll(`${demo.url}/slow/sse`), events);
    assert.ok(Date.now() - started < 7_000, "while a request is under way");
    await to.until(3);
    free();
    assert.equal(new Set(to.requests.map(({ body }) => body)).size, 1);
  });

  for (const [name, given] of [
    ["400", { status: 400, body: "no" }],
    ["307", { status: 307, headers: { location: "/elsewhere" } }],
    ["partialSuccess", { body: '{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}', headers: { "retry-after": "1" } }],
  ]) {
    test(`${name} is not tried again`, async () => {
      const events = await failingRun(`final-${name}`, () => given);
      await to.until(1);
      await isQuiet(`final-${name}`, events, 1);
    });
  }

  test("a receiver that is down, and a Worker that is killed meanwhile", async () => {
    const { port } = to;
    await to.stop();
    await startRun(demo.url, { id: "down", params: FAILS });
    const events = await readAll(`${demo.url}/down/sse`);
    const before = await trace(demo.url, "down");
    await sleep(500);
    await demo.restart();
    to = await receiver({ port });
    await to.until(1);
    assert.equal(to.requests[0].body, before);
    assert.deepEqual(await readAll(`${demo.url}/down/sse`), events);
  });
});
