// Malformed and odd requests against every route of the demo Worker and of the axum example: always an
// answer, never an undocumented 5xx, never a stack, nothing stored, and another viewer's stream undisturbed.
//
// SEED=n repeats a run, REQUESTS=n makes it longer.
import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { readdirSync } from "node:fs";
import net from "node:net";
import { after, describe, test } from "node:test";
import { dataFolder, serveAxum } from "./lib/axum.mjs";
import { isLostByWrangler, isWaiting, serve, startRun } from "./lib/demo.mjs";
import { open } from "./lib/sse.mjs";

const SEED = Number(process.env.SEED ?? randomInt(2 ** 31));
const REQUESTS = Number(process.env.REQUESTS ?? 400);
const CONCURRENCY = 8;
const ANSWER_MS = 90_000;
const STACK = /\n\s+at \S|panicked at|stack backtrace|Traceback|\.rs:\d|\.mjs:\d|\/src\/|\/home\/|\/root\/|node_modules|RuntimeError|unreachable executed/;

const left = [];
after(() => Promise.all(left.map((end) => end())));

/** Mulberry32: the same seed, the same requests. */
function chance(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (most) => Math.floor(next() * most);
  const bytes = (length) => Buffer.from(Array.from({ length }, () => below(256)));
  return { next, below, bytes, is: (share) => next() < share, pick: (list) => list[below(list.length)] };
}

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get", "M-SEARCH", "GETGETGETGET".repeat(20)];
const IDS = [
  "nobody", "a", "-a", "_", "..", ".", "%2e%2e", "%00", "%ff%fe", "%", "%zz", "a%2fb", "a b".replace(" ", "%20"), "é", "日本", "%F0%9F%AB%96", "x".repeat(65),
  "x".repeat(101), "x".repeat(3000), "constructor", "__proto__", "null", "0", "<img%20src=x>", "'%20OR%201=1--", "lock", "log-nobody", "assets", "runs", "metrics",
];
const POSITIONS = [
  "0", "1", "7", "-1", "+1", "1.5", "1e3", "0x10", "9007199254740991", "9007199254740992", "18446744073709551616", "9".repeat(400), "NaN", "", "%20", "1,2", "١", "1%00", "日",
];
const QUERIES = [
  (random) => `lastEventId=${random.pick(POSITIONS)}`,
  (random) => `last_event_id=${random.pick(POSITIONS)}`,
  (random) => `lastEventId=${random.pick(POSITIONS)}&lastEventId=${random.pick(POSITIONS)}`,
  (random) => `from=${random.pick(["latest", "beginning", "", "LATEST", "%", "x".repeat(2000)])}`,
  (random) => `since=${random.pick(["0", "-1", "2026-13-45T99:99:99Z", "99999999999999999999", "2026-11-24T09:00:00Z", "%ff", "x"])}`,
  (random) => `types=${random.pick(["step_started", "nothing", ",,,", "%00", "a,".repeat(2000)])}`,
  (random) => `access_token=${random.pick(["", "a.b.c", "e30.e30.", "x".repeat(5000), "%ff"])}`,
  (random) => `${"a=b&".repeat(random.below(400))}`,
  (random) => random.bytes(random.below(60)).toString("hex").replace(/../g, "%$&"),
];
const TAILS = ["", "", "", "/sse", "/sse", "/", "/sse", "/sse/", "//sse", "/event", "/instance/sse", "/otlp", "/session", "/sse/sse", "/SSE", "/%73se", "/..", "/sse%00", "/sse;a=b", "/unknown"];

function deep(levels, open, close) {
  return open.repeat(levels) + close.repeat(levels);
}

const BODIES = [
  () => "",
  () => "{}",
  () => "null",
  () => "[]",
  () => "{",
  () => '{"type":"waiting","payload":{"by":7}}',
  () => '{"item":7}',
  () => '{"quantity":1e400}',
  () => '{"quantity":-1,"workMs":99999999999999999999}',
  () => '{"item":"\\ud800"}',
  () => `{"item":${deep(100, "[", "]")}}`,
  () => deep(128, "[", "]"),
  () => deep(200_000, "[", ""),
  () => deep(20_000, '{"a":', "}"),
  () => `{"type":"${"t".repeat(2000)}"}`,
  () => JSON.stringify({ payload: "x".repeat(1024 * 1024 - 64) }).replace("payload", "nothing"),
  () => "x".repeat(1024 * 1024 + 1),
  () => "x".repeat(3 * 1024 * 1024),
  (random) => random.bytes(random.below(4000)),
];

const HEADERS = [
  (random) => ["last-event-id", random.pick(POSITIONS.map((position) => decode(position)))],
  (random) => ["last-event-id", random.bytes(random.below(40)).toString("latin1").replace(/[\0\r\n]/g, "x")],
  (random) => ["accept", random.pick(["text/event-stream", "application/json", "text/html", "*/*", ",;q=,", "x".repeat(3000), "\xff"])],
  (random) => ["origin", random.pick(["https://stranger.example", "null", "http://", "\xff", "https://" + "a".repeat(3000)])],
  (random) => ["cookie", random.pick(["a", "=", "ssetarget=x.y.z; ".repeat(50), "\xff=\xff"])],
  (random) => ["authorization", random.pick(["Bearer", "Bearer ", "Bearer a.b.c", `Bearer ${"x".repeat(5000)}`, "Basic \xff"])],
  (random) => ["if-none-match", random.pick(["*", '"', 'W/"1-1"', '"'.repeat(500)])],
  (random) => ["content-type", random.pick(["application/json", "text/plain", "text/plain; charset=x", "\xff", "multipart/form-data"])],
  (random) => ["accept-encoding", random.pick(["gzip", "identity;q=0, *;q=0", "zstd, br"])],
  (random) => ["range", random.pick(["bytes=0-", "bytes=-1", "lines=x"])],
  (random) => ["access-control-request-method", random.pick(["GET", "\xff", "DELETE"])],
  (random) => [`x-${"n".repeat(random.below(200) + 1)}`, "v".repeat(random.below(3000))],
];

function decode(text) {
  try {
    return decodeURIComponent(text).replace(/[\0\r\n]/g, "x");
  } catch {
    return text;
  }
}

/** Returns a random request as its bytes. `how` is for the message of a failure. */
function request(random, known, prefixes) {
  const method = random.is(0.4) ? "GET" : random.is(0.4) ? "POST" : random.pick(METHODS);
  const id = random.is(0.2) && method !== "POST" && method !== "DELETE" ? known : random.pick(IDS);
  const target = random.is(0.05)
    ? random.pick(["*", "/", "//", "/?", "/%", "/assets/..%2f..%2fCargo.toml", "/assets/start.js", "/ssetarget/page.js?v=x", "/ssetarget/../x", "http://other.example/a/sse"])
    : `${random.pick(prefixes)}/${id}${random.pick(TAILS)}${random.is(0.5) ? `?${random.pick(QUERIES)(random)}` : ""}`;
  const headers = Array.from({ length: random.below(5) }, () => random.pick(HEADERS)(random));
  const hasBody = method !== "GET" && method !== "HEAD" ? random.is(0.8) : random.is(0.05);
  // A start with a good body and without an id would make a run, rightly.
  const body = hasBody ? Buffer.from(random.pick(BODIES)(random)) : null;
  const framing = body === null ? "none" : random.pick(["length", "length", "chunks", "too short", "slow"]);
  return { method, target, headers, body, framing };
}

/** Sends it over a connection of its own. Resolves to `{ status, head, body }`, or `{ closed: true }`. */
function send(url, { method, target, headers, body, framing }) {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = net.connect(Number(port), hostname);
    let answer = Buffer.alloc(0);
    const give = () => {
      clearTimeout(late);
      clearTimeout(quiet);
      socket.destroy();
      const text = answer.toString("latin1");
      const status = Number(text.match(/^HTTP\/1\.[01] (\d{3})/)?.[1] ?? 0);
      const end = text.indexOf("\r\n\r\n");
      resolve(status === 0 ? { closed: true, text } : { status, head: text.slice(0, end).toLowerCase(), body: answer.subarray(end + 4).toString("utf8") });
    };
    const late = setTimeout(() => (answer.length > 0 ? give() : (socket.destroy(), reject(new Error("no answer")))), ANSWER_MS);
    let quiet;
    socket.on("data", (chunk) => {
      answer = Buffer.concat([answer, chunk]);
      clearTimeout(quiet);
      if (answer.length > 4 << 20) return give();
      if (answer.includes("\r\n\r\n")) quiet = setTimeout(give, 150);
    });
    socket.on("close", give);
    socket.on("error", () => {}); // `close` follows
    const lines = [`${method} ${target} HTTP/1.1`, `Host: ${hostname}:${port}`, ...headers.map(([name, value]) => `${name}: ${value}`)];
    if (body !== null) lines.push(framing === "chunks" ? "transfer-encoding: chunked" : `content-length: ${framing === "too short" ? body.length + 5 : body.length}`);
    socket.write(Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"));
    if (body === null) return;
    if (framing === "chunks") {
      if (body.length > 0) socket.write(Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from("\r\n")]));
      socket.write("0\r\n\r\n");
    } else if (framing === "slow") {
      const half = body.length >> 1;
      socket.write(body.subarray(0, half));
      setTimeout(() => !socket.destroyed && socket.write(body.subarray(half)), 300);
    } else {
      socket.write(body);
      // The missing bytes never come.
      if (framing === "too short") setTimeout(() => !socket.destroyed && socket.end(), 500);
    }
  });
}

const shown = ({ method, target, headers, body, framing }) =>
  JSON.stringify({ method, target: target.slice(0, 200), headers: headers.map(([name, value]) => [name.slice(0, 40), value.slice(0, 60)]), body: body?.subarray(0, 80).toString("latin1"), length: body?.length, framing });

/** The documented statuses: docs/wire.md. 501 and 505 are the server's own, below any route. */
const DOCUMENTED = new Set([503]);
const BELOW_ROUTES = new Set([501, 505]);

async function attack(url, known, prefixes, context, isTried = () => true) {
  const random = chance(SEED);
  context.diagnostic(`SEED=${SEED}, ${REQUESTS} requests`);
  const requests = Array.from({ length: REQUESTS }, () => request(random, known, prefixes)).filter(isTried);
  const statuses = new Map();
  const created = [];
  let next = 0;
  const worker = async () => {
    while (next < requests.length) {
      const one = requests[next++];
      const answer = await send(url, one).catch((error) => assert.fail(`SEED=${SEED}: ${error.message} to ${shown(one)}`));
      const isClosed = answer.closed || isLostByWrangler(answer.status, answer.body);
      const status = isClosed ? "closed" : answer.status;
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      const said = `SEED=${SEED}: ${status} ${(answer.body ?? answer.text).slice(0, 500)} to ${shown(one)}`;
      // A server may close the connection if the request is not HTTP, or is incomplete. A server that does not read
      // all of a large body resets the connection, which may overtake the answer.
      if (isClosed) assert.ok(one.framing === "too short" || one.body?.length > 128 * 1024 || !isHttp(one), said);
      else {
        if (status === 201) created.push(one.target.split("?")[0].slice(1));
        if (status === 303) created.push(answer.head.match(/^location: \/([^/]+)/m)[1]);
        assert.ok(status < 500 || DOCUMENTED.has(status) || BELOW_ROUTES.has(status), said);
        // A page and its script contain source code.
        if (!/content-type: text\/(html|javascript|css)/.test(answer.head)) assert.doesNotMatch(answer.body, STACK, said);
        if (status === 405) assert.match(answer.head, /^allow: ./m, said);
        if (status === 503) assert.match(answer.head, /^retry-after: \d+/m, said);
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, worker));
  context.diagnostic([...statuses].map(([status, count]) => `${status}: ${count}`).join(", "));
  assert.ok(statuses.size >= 3, "all requests were answered alike: they test nothing");
  return created;
}

/** Returns whether every server accepts it as a request. */
function isHttp({ method, target, headers }) {
  const isLine = /^[A-Z-]{1,100}$/.test(method) && /^[\x21-\x7e]{1,8000}$/.test(target);
  return isLine && headers.every(([, value]) => /^[\t\x20-\x7e]*$/.test(value));
}

describe("hostile requests", { concurrency: 1 }, () => {
  test("to the axum example", { timeout: 900_000 }, async (context) => {
    const folder = dataFolder();
    const server = await serveAxum({ DATA_DIR: folder });
    left.push(() => server.kill());
    const say = async (text) => {
      const response = await fetch(`${server.url}/watched?type=note`, { method: "POST", body: text });
      assert.equal(response.status, 201, await response.text());
    };
    await say("0");
    const watcher = await open(`${server.url}/watched/sse`);
    const attacked = attack(server.url, "watched", ["", "", "/runs"], context);
    let said = 1;
    let over = false;
    attacked.finally(() => (over = true)).catch(() => {});
    while (!over) {
      await say(`${said++}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const created = await attacked;
    await say('"end"');
    await watcher.until(({ json }) => json === "end");
    assert.deepEqual(watcher.events.map(({ json }) => json), [...Array(said).keys(), "end"]);
    // Only `201` and `303` make a log here.
    const ids = new Set(["watched", ...created]);
    const files = readdirSync(folder).filter((file) => file.endsWith(".sqlite"));
    assert.deepEqual(files.sort(), [...ids].map((id) => `log-${id.replace(/[A-Z]/g, (letter) => `=${letter.toLowerCase()}`)}.sqlite`).sort());
  });

  test("to the demo", { timeout: 900_000 }, async (context) => {
    const demo = await serve();
    left.push(() => demo.stop());
    const known = await startRun(demo.url);
    const watcher = await open(`${demo.url}/${known}/sse`);
    await watcher.until(isWaiting);
    const before = watcher.events.length;
    // The local runtime's own front end, and not the Worker, answers if a body does not come, or the target is not a
    // path.
    const reachesWorker = ({ framing, target, body, method }) => framing !== "too short" && target !== "*" && !(method === "GET" && body?.length > 128 * 1024);
    await attack(demo.url, known, [""], context, reachesWorker);
    // The watched stream got nothing, was not cut, and the run still waits for an answer.
    const again = await open(`${demo.url}/${known}/sse`);
    await again.until(isWaiting);
    assert.equal(again.events.length, before);
    const response = await fetch(`${demo.url}/${known}/event`, { method: "POST" });
    assert.equal(response.status, 200, await response.text());
    const rest = await watcher.rest();
    assert.equal(rest.at(-1).type, "completed");
  });
});
