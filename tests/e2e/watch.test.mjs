// typescript/watch.js against scripted servers.  node --test tests/e2e/watch.test.mjs
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http from "node:http";
import { after, describe, mock, test } from "node:test";
import { gzipSync } from "node:zlib";
import { EventSource } from "eventsource";
import { Run } from "../../src/page/element/model.js";
import { becomes, until } from "./lib/wait.mjs";
import { EVENT_TYPES, EventParser, WatchError, fold, follow, runView, watch, watchView } from "../../typescript/watch.js";

// ------------------------------------------------------------------ the format

/** Vectors of the standard: name, bytes, the events as type, data and last id, and the id at the end. */
const VECTORS = [
  ["lines of data are joined", "data: a\ndata: b\ndata: c\n\n", [["message", "a\nb\nc", ""]], ""],
  ["an unfinished event is dropped, a comment ignored, an empty id clears", ": x\n\ndata: a\nid: 1\n\ndata:b\nid\n\ndata:  c\n", [["message", "a", "1"], ["message", "b", ""]], ""],
  ["empty data", "data\n\ndata\ndata\n\ndata:\n", [["message", "", ""], ["message", "\n", ""]], ""],
  ["one space is taken away", "data:a\n\ndata: a\n\ndata:  a\n\n", [["message", "a", ""], ["message", "a", ""], ["message", " a", ""]], ""],
  ["a byte order mark, at the start only", "\ufeffdata: a\n\n\ufeffdata: b\n\ndata: c\n\n", [["message", "a", ""], ["message", "c", ""]], ""],
  ["CR", "event: x\rdata: a\r\rdata: b\r\r", [["x", "a", ""], ["message", "b", ""]], ""],
  ["CR LF", "data: a\r\ndata: b\r\n\r\n", [["message", "a\nb", ""]], ""],
  ["line ends of all kinds", "data: a\r\rdata: b\n\ndata: c\r\n\r\ndata: d\r\n\r", ["a", "b", "c", "d"].map((data) => ["message", data, ""]), ""],
  ["an id alone is not an event, and counts", "id: 5\n\n", [], "5"],
  ["ids stay", "id: 1\ndata: a\n\ndata: b\n\n", [["message", "a", "1"], ["message", "b", "1"]], "1"],
  ["comments", ":\n\n: hello\n\n", [], ""],
  ["an id with NUL is ignored", "id: 1\ndata: a\n\nid: 2\u00003\ndata: b\n\n", [["message", "a", "1"], ["message", "b", "1"]], "1"],
  ["bytes that are no UTF-8", Buffer.from("646174613a2061ff62e2820a0a", "hex"), [["message", "a\ufffdb\ufffd", ""]], ""],
  ["characters of many bytes", "data: \u20ac\u{1f600}\n\n", [["message", "\u20ac\u{1f600}", ""]], ""],
  ["unknown fields, and names in other cases", "Data: a\ndatas: b\n data: c\ndata: d\nfoo\n\n", [["message", "d", ""]], ""],
  ["the type is for one event", "event: x\n\ndata: a\n\nevent: y\ndata: b\n\n", [["message", "a", ""], ["y", "b", ""]], ""],
  ["a colon in the value", "data: a:b: c\n\n", [["message", "a:b: c", ""]], ""],
  ["an id that was cut off does not count", "data: a\n\nid: 9\ndata: b\n", [["message", "a", ""]], ""],
  ["an empty id", "id: 3\ndata: a\n\nid:\ndata: b\n\n", [["message", "a", "3"], ["message", "b", ""]], ""],
];

test("the standard's rules hold, however the bytes are cut", () => {
  for (const [name, text, expected, last] of VECTORS) {
    const bytes = Buffer.from(text);
    for (let size = 1; size <= bytes.length; size += 1) {
      const parser = new EventParser();
      const events = [];
      for (let start = 0; start < bytes.length; start += size) events.push(...parser.feed(bytes.subarray(start, start + size)));
      assert.deepEqual(events.map(({ type, data, lastEventId }) => [type, data, lastEventId]), expected, `${name}, in pieces of ${size}`);
      assert.equal(parser.lastEventId, last, name);
    }
  }
});

test("a delay is a whole number", () => {
  for (const [text, retry] of [["retry: 1500\n", 1500], ["retry: 1500\nretry: 2s\n", 1500], ["retry: -1\n", undefined], ["retry:\n", undefined], [`retry: ${"9".repeat(30)}\n`, undefined]]) {
    const parser = new EventParser();
    parser.feed(Buffer.from(text));
    assert.equal(parser.retry, retry, text);
  }
});

test("no event grows without bound", () => {
  for (const piece of ["x".repeat(1 << 20), "data: abc\n".repeat(1 << 17)]) {
    const parser = new EventParser();
    assert.throws(() => {
      for (let n = 0; n < 20; n += 1) parser.feed(Buffer.from(piece));
    }, { name: "WatchError", kind: "tooLarge" });
  }
});

test("the module is small, and needs nothing", () => {
  const source = readFileSync(new URL("../../typescript/watch.js", import.meta.url), "utf8");
  assert.ok(gzipSync(source).length < 8 * 1024, `${gzipSync(source).length} bytes after gzip`);
  assert.doesNotMatch(source, /^import|require\(/m);
});

// ------------------------------------------------------------------ the state

const RUNS = JSON.parse(readFileSync(new URL("../page/folds.json", import.meta.url), "utf8"));

const folded = (events, view = runView(), from = 0) => events.reduce((state, [type, data], index) => fold(state, { type, data, id: String(from + index + 1) }), view);

/** Returns a view as one list in the order in which tasks began, as RunView has them. */
function list(view, order) {
  const { tasks, taskCount, id: _, workflow: __, ...rest } = view;
  const flat = (of) => of.flatMap(({ tasks: inner = [], ...task }) => [task, ...flat(inner)]);
  const all = flat(tasks);
  assert.equal(all.length, taskCount);
  return { ...rest, tasks: all.sort((a, b) => order.indexOf(a.taskId) - order.indexOf(b.taskId)) };
}

test("events give the same view as RunView, and the same tree as the page", () => {
  for (const { name, events, view } of RUNS) {
    const state = folded(events);
    assert.deepEqual(list(state, view.tasks.map(({ taskId }) => taskId)), view, name);
    const page = new Run();
    events.forEach(([type, data], index) => page.apply(type, data, index + 1));
    page.id = "";
    assert.deepEqual(state, page.view, name);
  }
});

test("a state and the events after it make the same as all events, and nothing is changed in place", () => {
  for (const { name, events } of RUNS) {
    const all = folded(events);
    for (let at = 0; at <= events.length; at += 4) {
      const before = deepFreeze(JSON.parse(JSON.stringify(folded(events.slice(0, at)))));
      assert.deepEqual(folded(events.slice(at), before, at), all, `${name} after ${at}`);
    }
  }
});

test("two states may be made of the same one", () => {
  const task = (taskId, parentId = null) => ({ type: "started", data: { taskId, step: taskId, kind: "do", count: 1, parentId, timestamp: "2026-11-24T09:00:00.000Z" }, id: null });
  const done = (taskId) => ({ ...task(taskId), type: "completed" });
  const base = fold(runView(), task("a"));
  const left = fold(base, task("b"));
  const right = fold(fold(base, task("c")), task("b"));
  const states = (view) => view.tasks.map(({ taskId, state }) => `${taskId} ${state}`);
  assert.deepEqual(states(fold(left, done("b"))), ["a running", "b completed"]);
  assert.deepEqual(states(fold(right, done("b"))), ["a running", "c running", "b completed"]);
  assert.deepEqual(states(fold(left, done("c"))), ["a running", "b running"]);
  const inner = fold(left, task("d", "b"));
  assert.deepEqual(inner.tasks[1].tasks.map(({ taskId }) => taskId), ["d"]);
  assert.equal(inner.tasks[0], base.tasks[0], "what does not change is the same object");
  // React does this in development: each event comes twice, with the same state.
  let view = runView();
  for (let n = 0; n < 50; n += 1) {
    fold(view, task(`t${n}`));
    view = fold(view, task(`t${n}`));
  }
  assert.equal(view.tasks.length, 50);
});

test("an event that was applied before gives the same state", () => {
  const [{ events }] = RUNS;
  const state = folded(events);
  assert.equal(folded(events, state), state);
});

test("malformed and hostile data changes no task", () => {
  let view = runView();
  for (const data of [null, 1, "x", [], {}, { taskId: 7 }, { taskId: "a" }]) view = fold(view, { type: "started", data });
  view = fold(view, { type: "constructor", data: { taskId: "a", timestamp: "" } });
  assert.deepEqual(view, runView());
  const task = { taskId: "__proto__", step: "__proto__", kind: "do", count: 1, parentId: "__proto__", timestamp: "x" };
  view = fold(fold(view, { type: "started", data: task }), { type: "progress", data: { ...task, attributes: JSON.parse('{"__proto__":{"x":1}}') } });
  assert.equal({}.x, undefined);
  assert.equal(view.tasks.length, 1);
});

test("deep trees are as deep as a snapshot's", () => {
  let view = runView();
  for (let n = 0; n < 100; n += 1) {
    view = fold(view, { type: "started", data: { taskId: `${n}`, step: "s", kind: "do", count: 1, parentId: n === 0 ? "r.workflow" : `${n - 1}`, timestamp: "t" } });
  }
  let levels = 0;
  for (let { tasks } = view; tasks; tasks = tasks.at(-1).tasks) levels += 1;
  assert.equal(levels, 32);
  assert.equal(view.taskCount, 100);
});

test("an event costs little, however many tasks there are", () => {
  let view = runView();
  const began = performance.now();
  for (let n = 0; n < 5000; n += 1) {
    const task = { taskId: `t-${n}`, step: "t", kind: "do", count: n, parentId: null, timestamp: "2026-11-24T09:00:00.000Z" };
    view = fold(fold(view, { type: "started", data: task }), { type: "completed", data: task });
  }
  assert.ok(performance.now() - began < 5000, `${performance.now() - began} ms for 10,000 events`);
});

function deepFreeze(value) {
  if (value !== null && typeof value === "object") Object.values(Object.freeze(value)).forEach(deepFreeze);
  return value;
}

// ------------------------------------------------------------------ the way

const servers = [];
after(() => servers.forEach((server) => (server.closeAllConnections(), server.close())));

/** Starts a server that answers the nth request with the nth of these functions, and every later request with the last one. */
async function scripted(...answers) {
  const requests = [];
  const server = http.createServer((request, response) => {
    const url = new URL(request.url, "http://localhost");
    requests.push({ method: request.method, path: url.pathname, query: url.search, ...request.headers });
    const next = answers[Math.min(requests.length, answers.length) - 1];
    next(response, request);
  });
  servers.push(server);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/o-1/sse`, requests };
}

const STREAM = { "content-type": "text/event-stream" };
const status = (code, headers = {}) => (response) => response.writeHead(code, headers).end();
const none = status(204);
/** Sends these bytes, and closes the connection, or breaks it with `cut`. */
const sends = (bytes, { cut = false, retry = 1 } = {}) => (response) => {
  response.writeHead(200, STREAM);
  response.write(`retry: ${retry}\n`);
  response.write(bytes);
  if (cut) setTimeout(() => response.destroy(), 5);
  else response.end();
};

const [, , , { events: ORDER }] = RUNS;
const text = (events, from = 0) => events.map(([type, data], index) => `id: ${from + index + 1}\nevent: ${type}\ndata: ${JSON.stringify(data)}\n\n`).join("");
const END = ["completed", ORDER.find(([, data]) => data.kind === "workflow")[1]];
const LOG = text(ORDER);

/** Serves a log after the position of each request. `cuts` are the numbers of bytes after which a connection is broken. */
function serves(log, cuts, { piece = Infinity } = {}) {
  let connection = 0;
  return async (response, request) => {
    const after = Number(request.headers["last-event-id"] ?? new URL(request.url, "http://localhost").searchParams.get("lastEventId") ?? 0);
    const bytes = Buffer.from(log.split(/(?<=\n\n)/).slice(after).join(""));
    if (bytes.length === 0) return void response.writeHead(204).end();
    response.writeHead(200, STREAM);
    response.write("retry: 1\n");
    if (request.method === "HEAD") return void response.end();
    const cut = cuts[connection++] ?? Infinity;
    const sent = bytes.subarray(0, cut);
    for (let at = 0; at < sent.length; at += piece) {
      response.write(sent.subarray(at, at + piece));
      if (piece !== Infinity) await new Promise((resolve) => setImmediate(resolve));
    }
    if (cut < bytes.length) setTimeout(() => response.destroy(), 2);
    else response.end();
  };
}

async function all(iterator) {
  const items = [];
  for await (const item of iterator) items.push(item);
  return items;
}

const FAST = { giveUpAfter: 60_000 };
const plain = (events) => events.map(({ type, data }) => [type, data]);

for (const options of [{}, { transport: "eventsource", EventSource }]) {
  const name = options.transport ?? "fetch";

  describe(`with ${name}`, () => {
    test("each event comes once, wherever the connection is cut", async () => {
      const size = Buffer.byteLength(LOG);
      const step = Math.ceil(size / 24);
      for (let cut = 0; cut < size; cut += step) {
        const { url, requests } = await scripted(serves(LOG, [cut, Math.floor(cut / 3), 700]));
        const events = await all(watch(url, { ...FAST, ...options }));
        assert.deepEqual(plain(events), ORDER, `cut after ${cut}`);
        assert.deepEqual(events.map(({ id }) => id), ORDER.map((_, index) => String(index + 1)));
        assert.ok(requests.length >= 2);
      }
    });

    test("the event that ends a run is the last, and no request follows it", async () => {
      const { url, requests } = await scripted(sends(LOG + text([END], ORDER.length)), none);
      const states = [];
      const events = await all(watch(url, { ...options, onState: (state) => states.push(state) }));
      assert.equal(events.at(-1).type, "completed");
      assert.equal(requests.length, 1);
      assert.deepEqual(states, ["connecting", "live", "ended"]);
    });

    test("an end that only the server knows is a 204", async () => {
      const { url, requests } = await scripted(sends("id: 4\nevent: note\ndata: hello\n\n"), none);
      const events = await all(watch(url, { ...options, types: ["note"] }));
      assert.deepEqual(events, [{ type: "note", data: "hello", id: "4" }]);
      assert.equal(requests[1]["last-event-id"], "4");
    });

    test("the position of the caller counts, over that of the URL", async () => {
      const { url, requests } = await scripted(none);
      assert.deepEqual(await all(watch(`${url}?from=latest`, { ...options, lastEventId: 7 })), []);
      if (options.transport) assert.equal(requests[0].query, "?lastEventId=7");
      else assert.equal(requests[0]["last-event-id"], "7");
    });

    test("reset and restarted are events, and start the state over", async () => {
      const events = [["restarted", { run: 2, timestamp: "t" }], ...ORDER];
      const reset = 'event: reset\ndata: {"requested":99,"oldest":5,"head":60}\n\n';
      const { url } = await scripted(sends(reset + text(events, 4) + text([END], 4 + events.length)));
      const views = await all(watchView(url, { ...options, lastEventId: 99 }));
      assert.equal(views.at(-1).run, 2);
      assert.equal(views.at(-1).state, "completed");
      assert.equal(views.at(-1).taskCount, folded(ORDER).taskCount);
    });

    test("refusals are errors of their kinds", async () => {
      for (const [code, kind] of [[401, "notAllowed"], [403, "notAllowed"], [404, "unknownRun"], [410, "unknownRun"], [400, "refused"]]) {
        const { url, requests } = await scripted(status(code));
        const error = await all(watch(url, options)).catch((caught) => caught);
        assert.ok(error instanceof WatchError);
        assert.deepEqual([error.kind, error.status], [kind, code]);
        assert.ok(requests.length <= 2);
      }
    });

    test("a server that is away is asked again, after the time that it asks for", async () => {
      const { url, requests } = await scripted(sends("id: 1\nevent: progress\ndata: {}\n\n", { cut: true }), status(503, { "retry-after": "1" }), status(503), none);
      const began = Date.now();
      const reasons = [];
      assert.equal((await all(watch(url, { ...options, onState: (state, reason) => state === "waiting" && reasons.push(reason) }))).length, 1);
      assert.ok(requests.length >= 4);
      assert.ok(reasons.some((reason) => reason.includes("503")), `${reasons}`);
      if (!options.transport) assert.ok(Date.now() - began >= 990);
    });

    test("a permission that has run out is renewed", async () => {
      const expired = 'event: expired\ndata: {"renew":true}\n\n';
      const { url, requests } = await scripted(sends(text(ORDER.slice(0, 3)) + expired), sends(text(ORDER.slice(3), 3) + text([END], ORDER.length)));
      const asked = [];
      const renew = async (why) => void asked.push(why);
      const events = await all(watch(url, { ...options, renew }));
      assert.deepEqual(asked, ["expired"]);
      assert.deepEqual(plain(events.filter(({ type }) => type !== "expired")), [...ORDER, END]);
      assert.deepEqual(events[3], { type: "expired", data: { renew: true }, id: null });
      assert.equal(requests[1]["last-event-id"] ?? new URLSearchParams(requests[1].query).get("lastEventId"), "3");
    });

    test("a permission that is refused is renewed once", async () => {
      const { url, requests } = await scripted(status(401));
      let asked = 0;
      await assert.rejects(all(watch(url, { ...options, renew: () => void (asked += 1) })), { kind: "notAllowed", status: 401 });
      assert.equal(asked, 1);
      assert.ok(requests.length <= 4);
      await assert.rejects(all(watch(url, { ...options, renew: () => Promise.reject(new Error("logged out")) })), ({ kind, cause }) => kind === "notAllowed" && cause.message === "logged out");
    });

    test("a page in place of the stream is an error, also if the server redirects to it", { timeout: 60_000 }, async () => {
      const page = status(200, { "content-type": "text/html" });
      const { url } = await scripted(page);
      await assert.rejects(all(watch(url, { ...FAST, ...options })), { kind: "notEvents", message: "the server answers with text/html" });
      const login = (response, request) => (request.url === "/login" ? page(response) : status(302, { location: "/login" })(response));
      const { url: closed } = await scripted(login);
      await assert.rejects(all(watch(closed, { ...FAST, ...options })), { kind: "notEvents", message: "the server redirects, and then answers with text/html" });
    });

    test("it gives up if asked to: if the server is down, and if it does not answer", { timeout: 60_000 }, async () => {
      for (const answer of [(response) => response.destroy(), ...(options.transport ? [() => {}] : [])]) {
        const { url } = await scripted(answer);
        await assert.rejects(all(watch(url, { ...options, giveUpAfter: 300 })), { kind: "gaveUp" });
      }
    });

    test("a stream that stays open after the end of the run does not keep its viewer", { timeout: 60_000 }, async () => {
      const { url } = await scripted((response) => response.writeHead(200, STREAM).write(text([END])));
      assert.equal((await all(watch(url, options))).length, 1);
    });

    test("a signal stops it at any time, without an error, and leaves no connection", async () => {
      let closed = 0;
      const open = (response) => {
        response.writeHead(200, STREAM);
        response.write("retry: 60000\nid: 1\nevent: progress\ndata: {}\n\n");
        response.on("close", () => (closed += 1));
      };
      for (const answer of [open, () => {}, (response) => response.destroy()]) {
        const { url, requests } = await scripted(answer);
        const control = new AbortController();
        const events = [];
        const reading = (async () => {
          for await (const event of watch(url, { ...options, signal: control.signal })) events.push(event);
        })();
        await until("it is under way", () => (answer === open ? events.length === 1 : requests.length > 0));
        await new Promise((resolve) => setTimeout(resolve, 50));
        control.abort();
        await reading;
        assert.equal(events.length, answer === open ? 1 : 0);
      }
      const { url } = await scripted(open);
      for await (const event of watch(url, options)) {
        assert.equal(event.type, "progress");
        break;
      }
      assert.deepEqual(await all(watch(url, { ...options, signal: AbortSignal.abort() })), []);
      await becomes(() => closed, 2, "closed connections");
    });
  });
}

test("bytes may come one by one", async () => {
  const log = text(ORDER.slice(0, 6)) + text([END], 6);
  const { url } = await scripted(serves(log, [], { piece: 1 }));
  assert.deepEqual(plain(await all(watch(url))), [...ORDER.slice(0, 6), END]);
});

test("a token and headers are sent, and a new token after the old one", async () => {
  const expired = 'event: expired\ndata: {"renew":true}\n\n';
  const { url, requests } = await scripted(sends(expired), status(401), none);
  const tokens = ["two"];
  await assert.rejects(all(watch(url, { token: "one", headers: { "x-own": "1" }, renew: () => tokens.shift() })), { kind: "notAllowed" });
  assert.deepEqual(requests.map(({ authorization }) => authorization), ["Bearer one", "Bearer two"]);
  assert.equal(requests[0]["x-own"], "1");
  assert.throws(() => new URL("no url"));
  await assert.rejects(all(watch(url, { transport: "eventsource", token: "one" })), TypeError);
});

test("a permission that runs out at once is not renewed again and again", async () => {
  const { url } = await scripted(sends('event: expired\ndata: {"renew":true}\n\n', { retry: 200 }));
  let asked = 0;
  const control = new AbortController();
  const reading = all(watch(url, { renew: () => void (asked += 1), signal: control.signal }));
  await until("it is asked again", () => asked >= 2);
  setTimeout(() => control.abort(), 700);
  await reading;
  assert.ok(asked <= 8, `${asked}`);
});

test("a silent connection counts as cut", async () => {
  const silent = (response) => response.writeHead(200, STREAM).write("retry: 1\n");
  const { url, requests } = await scripted(silent, none);
  assert.deepEqual(await all(watch(url, { silence: 1000 })), []);
  assert.equal(requests.length, 2);
});

test("a server that is down is not asked again and again, even if it wants its clients back at once", async () => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { random } = Math;
  Math.random = () => 1;
  try {
    let requests = 0;
    const fetch = async () => {
      requests += 1;
      if (requests === 1) return new Response("retry: 0\n\n", { headers: STREAM });
      throw new Error("down");
    };
    const control = new AbortController();
    const reading = all(watch("http://localhost/o-1/sse", { fetch, signal: control.signal }));
    const at = [];
    for (let second = 0; second <= 100; second += 0.5) {
      for (let turns = 0; turns < 20; turns += 1) await new Promise((resolve) => setImmediate(resolve));
      while (at.length < requests) at.push(second);
      mock.timers.tick(500);
    }
    control.abort();
    await reading;
    // The stream; at once; then after 1, 2, 4, 8, 16, 30 and 30 seconds.
    assert.deepEqual(at.map(Math.floor), [0, 0, 1, 3, 7, 15, 31, 61, 91]);
  } finally {
    Math.random = random;
    mock.timers.reset();
  }
});

test("an EventSource counts as silent from when its connection is cut, not from its last event", async () => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  try {
    let source;
    class Quiet extends EventTarget {
      readyState = 0;
      constructor() {
        super();
        source = this;
      }
      becomes(readyState, type) {
        this.readyState = readyState;
        this.dispatchEvent(new Event(type));
      }
      close() {
        this.readyState = 2;
      }
    }
    const states = [];
    const reading = all(watch("http://localhost/o-1/sse", { transport: "eventsource", EventSource: Quiet, giveUpAfter: 60_000, onState: (state, reason) => states.push(`${state} ${reason}`.trim()) }));
    const outcome = reading.catch(({ kind, message }) => states.push(`${kind} ${message}`));
    const passes = async (milliseconds) => {
      mock.timers.tick(milliseconds);
      await new Promise((resolve) => setImmediate(resolve));
    };
    source.becomes(1, "open");
    await passes(600_000);
    source.becomes(0, "error");
    await passes(59_999);
    source.becomes(1, "open");
    await passes(600_000);
    source.becomes(0, "error");
    await passes(30_000);
    source.becomes(0, "error");
    await passes(29_999);
    const cut = ["live", "waiting the connection was cut"];
    assert.deepEqual(states, ["connecting", ...cut, ...cut, "waiting the server cannot be reached"]);
    await passes(1);
    await outcome;
    assert.equal(states.at(-1), "gaveUp the server cannot be reached");
    assert.equal(source.readyState, 2);
  } finally {
    mock.timers.reset();
  }
});

test("a merged stream ends with its last run only", async () => {
  const merged = (id, [type, data]) => `id: ${id}\nevent: ${type}\ndata: ${JSON.stringify(data)}\n\n`;
  const { url, requests } = await scripted(sends(merged("a:4,b:1", END)), sends(merged("a:4,b:2", ORDER[0])), none);
  assert.equal((await all(watch(url))).length, 2);
  assert.equal(requests[1]["last-event-id"], "a:4,b:1");
});

// ------------------------------------------------------------------ from the snapshot

test("the state begins with the snapshot, and goes on after it", async () => {
  const half = { ...folded(ORDER.slice(0, 12)), id: "o-1" };
  const snapshot = (response) => response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(half));
  const { url, requests } = await scripted(status(503), snapshot, serves(LOG, [300]));
  const views = await all(watchView(url));
  assert.deepEqual(views[0], half);
  assert.deepEqual(views.at(-1), { ...folded(ORDER), id: "o-1" });
  assert.deepEqual(requests.slice(0, 3).map(({ path, accept, "last-event-id": id }) => [path, accept, id]), [
    ["/o-1", "application/json", undefined],
    ["/o-1", "application/json", undefined],
    ["/o-1/sse", "text/event-stream", "12"],
  ]);
});

test("without a snapshot the events give the state", async () => {
  for (const answer of [status(404), status(410), status(405), status(406), status(200, { "content-type": "text/html" })]) {
    const { url } = await scripted(answer, serves(LOG, []));
    assert.deepEqual((await all(watchView(url))).at(-1), folded(ORDER));
  }
  const { url, requests } = await scripted(serves(LOG, []));
  assert.deepEqual((await all(watchView(url, { snapshot: false }))).at(-1), folded(ORDER));
  assert.equal(requests[0].path, "/o-1/sse");
});

test("many events at once are one state", async () => {
  const { url } = await scripted(serves(LOG, []));
  assert.ok((await all(watchView(url, { snapshot: false }))).length < 5);
});

test("follow calls with each state, says how it ends, and can be stopped", async () => {
  const first = await scripted(serves(LOG, []));
  const views = [];
  await new Promise((resolve, reject) => follow(first.url, (view) => views.push(view), { snapshot: false, onEnd: resolve, onError: reject }));
  assert.deepEqual(views.at(-1), folded(ORDER));

  const unknown = await scripted(status(404));
  assert.equal((await new Promise((resolve) => follow(unknown.url, () => {}, { onError: resolve }))).kind, "unknownRun");

  const slow = await scripted(serves(LOG, [], { piece: 10 }));
  const seen = await new Promise((resolve) => {
    let count = 0;
    const stop = follow(slow.url, () => {
      count += 1;
      stop();
      setTimeout(() => resolve(count), 100);
    }, { snapshot: false });
  });
  assert.equal(seen, 1);
});

// ------------------------------------------------------------------ the types

test("the types say what the module exports", () => {
  const declared = readFileSync(new URL("../../typescript/watch.d.ts", import.meta.url), "utf8").matchAll(/^export declare (?:const|class|function) (\w+)/gm);
  assert.deepEqual([...declared].map(([, name]) => name).toSorted(), ["EVENT_TYPES", "EventParser", "WatchError", "fold", "follow", "runView", "watch", "watchView"]);
  const types = readFileSync(new URL("../../typescript/types.d.ts", import.meta.url), "utf8");
  const map = types.match(/export interface EventMap \{\n(.*?)\n\}/s)[1];
  assert.deepEqual([...map.matchAll(/^ {2}(\w+):/gm)].map(([, name]) => name).toSorted(), [...EVENT_TYPES].toSorted());
});
