// The routes of a run on Workers: paths, ids and methods, the hook that runs first, answers, and CORS with
// credentials in a browser.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import http from "node:http";
import { after, before, describe, test } from "node:test";
import { launch, skip } from "./lib/browser.mjs";
import { refused } from "./lib/demo.mjs";
import { harness } from "./lib/harness.mjs";
import { start } from "./lib/script.mjs";
import { open, readAll } from "./lib/sse.mjs";

let server;
let site;
let stranger;
let ended;
before(async () => {
  [site, stranger] = [await serveSite(), await serveSite()];
  server = await harness({ config: `\n[vars]\nORIGINS = "${site.url}"\n` });
  ended = await start(server, [{ do: { name: "a" } }]);
  await ended.ended();
});
after(async () => {
  await server?.stop();
  for (const each of [site, stranger]) each?.stop();
});

const at = (what, path, workflow = "alpha") => `${server.url}/routes/${what}/${workflow}${path}`;
const bearer = (id) => ({ authorization: `Bearer key of ${id}` });

test("paths that are not switched on, or are no run's, are left to others", async () => {
  for (const [what, path, status] of [
    ["bare", "/ID/sse", 200], ["bare", "/unknown/sse", 404],
    ["bare", "", 418], ["bare", "/", 418], ["bare", "/ID", 418], ["bare", "/ID/", 418], ["bare", "//sse", 418], ["bare", "/sse", 418],
    ["bare", "/ID/sse/", 418], ["bare", "/ID/SSE", 418], ["bare", "/ID/event", 418], ["bare", "/ID/instance/sse", 418], ["bare", "/ID/x/sse", 418],
    ["open", "/ID/instance/sse", 200], ["open", "/ID/event", 405], ["open", "/ID", 418],
  ]) {
    const response = await ask("GET", at(what, path.replace("ID", ended.id)));
    assert.equal(response.status, status, `${what} ${path}`);
  }
});

test("ids are decoded, and impossible ones wake no object", async () => {
  // The object of this workflow fails whenever it is called.
  for (const [id, status] of [["%6Bnown", 503], ["a%20b", 503], ["%2F", 503], ["%FF", 404], ["%", 404], ["%00", 404], ["%C3%BC", 404], ["x".repeat(272), 404]]) {
    const response = await ask("GET", at("bare", `/${id}/sse`, "broken"));
    assert.equal(response.status, status, id.slice(0, 20));
  }
  const encoded = [...ended.id].map((letter) => `%${letter.charCodeAt(0).toString(16)}`).join("");
  assert.equal((await readAll(at("bare", `/${encoded}/sse`))).at(-1).json.kind, "workflow");
});

test("every method on every path has an answer", async () => {
  for (const [path, takes, allow] of [["/sse", ["GET", "HEAD"], "GET, HEAD"], ["/instance/sse", ["GET", "HEAD"], "GET, HEAD"], ["/event", ["POST"], "POST"]]) {
    for (const method of ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]) {
      const response = await ask(method, at("open", `/${ended.id}${path}`));
      if (takes.includes(method)) {
        // The run has ended. A body without a type is refused before the hook runs.
        assert.equal(response.status, method === "POST" ? 400 : 200, `${method} ${path}`);
        continue;
      }
      assert.deepEqual([response.status, response.headers.allow], [405, allow], `${method} ${path}`);
      assert.equal(response.headers["x-content-type-options"], "nosniff");
      const unknown = await ask(method, at("open", `/unknown${path}`));
      assert.deepEqual([unknown.status, unknown.body], [405, response.body]);
    }
  }
});

describe("the hook", () => {
  const PATHS = [["GET", "/sse"], ["GET", "/instance/sse"], ["POST", "/event"]];

  test("refuses with the same bytes, and no object is called", async () => {
    for (const [method, path] of PATHS) {
      const answers = new Set();
      // A broken log would be a 503; an unknown run and a malformed id are a 404.
      for (const [id, workflow] of [[ended.id, "alpha"], ["unknown", "alpha"], ["%FF", "alpha"], ["x".repeat(300), "alpha"], ["any", "broken"]]) {
        for (const headers of [{}, bearer("another"), bearer("past"), { authorization: "Bearer" }, { authorization: "Basic key" }, { cookie: "key=key+of+another" }, { "last-event-id": "x" }, { accept: "text/event-stream" }]) {
          const response = await ask(method, at("closed", `/${id}${path}`, workflow), headers, method === "POST" ? "{" : undefined);
          assert.equal(response.status, 401, `${method} ${id}${path} ${JSON.stringify(headers)}`);
          assert.equal(response.headers["www-authenticate"], "Bearer");
          const { date, ...rest } = response.headers;
          answers.add(JSON.stringify([rest, response.body]));
        }
      }
      assert.equal(answers.size, 1, [...answers].join("\n"));
    }
  });

  test("admits viewers with permission, who learn which runs exist", async () => {
    const own = (path) => at("closed", `/${ended.id}${path}`);
    assert.equal((await readAll(own("/sse"), { headers: bearer(ended.id) })).length > 3, true);
    assert.equal((await ask("GET", own("/sse"), { cookie: `a=b; key=key+of+${ended.id}` })).status, 200);
    assert.equal((await ask("HEAD", own("/sse"), bearer(ended.id))).status, 200);
    assert.equal((await ask("GET", own("/instance/sse"), bearer(ended.id))).status, 200);
    assert.equal((await ask("GET", own("/sse"), { ...bearer(ended.id), "last-event-id": "x" })).status, 400);
    assert.equal((await ask("GET", at("closed", "/unknown/sse"), bearer("unknown"))).status, 404);
    assert.equal((await ask("GET", at("closed", "/any/sse", "broken"), bearer("any"))).status, 503);
    // Permission to watch does not include permission to answer.
    assert.equal((await ask("GET", own("/sse"), bearer("watcher"))).status, 200);
    assert.equal((await ask("POST", own("/event"), bearer("watcher"), `{"type":"go"}`)).status, 401);
    assert.equal((await ask("POST", own("/event"), bearer(ended.id), `{"type":"go"}`)).status, 409);
  });

  test("that cannot decide makes an EventSource come back", async () => {
    const url = at("closed", `/${ended.id}/sse`);
    const plain = await ask("GET", url, bearer("broken"));
    assert.deepEqual([plain.status, plain.headers["retry-after"]], [503, "1"]);
    const held = await fetch(url, { headers: { ...bearer("broken"), accept: "text/event-stream" } });
    assert.equal(held.status, 200);
    await held.body.cancel();
  });

  test("may grant for a time, at whose end the stream says so and ends", async () => {
    const waiting = await start(server, [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }]);
    for (const path of ["/sse", "/instance/sse"]) {
      const response = await fetch(at("closed", `/${waiting.id}${path}`), { headers: bearer("soon") });
      const text = await response.text();
      assert.match(text, /(^|\n\n)event: expired\ndata: \{"renew":true\}\n\n$/, text.slice(-200));
    }
    await waiting.act("terminate");
  });
});

test("an answer reaches a run that waits, and everything else is refused with a reason", async () => {
  const waiting = await start(server, [{ wait: { name: "w", type: "go" } }]);
  const url = at("open", `/${waiting.id}/event`);
  const stream = await open(at("open", `/${waiting.id}/sse`));
  await stream.until(({ json }) => json.kind === "waitForEvent");
  for (const [body, status, reason] of [
    ["", 400, "the body of an event has a type"],
    ["{}", 400, "the body of an event has a type"],
    ["[]", 400, "the body is JSON, but not an object"],
    ["{", 400, /^the body is not JSON: /],
    [`{"type":1}`, 400, "the type is not a string"],
    [`{"type":"a b"}`, 400, "the type has up to 100 letters, digits, - and _"],
    [`{"type":"go","more":1}`, 400, "the body of an event has a type and a payload, nothing else"],
    [`{"type":"go","payload":"now"}`, 400, "going takes no words"],
    [Buffer.from([0x7b, 0xff]), 400, "the body is not UTF-8"],
  ]) {
    const response = await ask("POST", url, {}, body);
    assert.equal(response.status, status, `${body}`.slice(0, 60));
    assert.equal(response.headers["content-type"], "text/plain; charset=utf-8");
    if (typeof reason === "string") assert.equal(response.body, `${reason}\n`);
    else assert.match(response.body, reason);
  }
  const long = await refused(url, () => ({ body: `{"type":"go","payload":"${"x".repeat(1024 * 1024)}"}` }));
  assert.deepEqual(long, { status: 413, body: "the body is larger than 1 MiB\n" });
  assert.equal((await ask("POST", at("open", "/unknown/event"), {}, `{"type":"go"}`)).status, 404);
  assert.equal((await ask("POST", at("open", "/%FF/event"), {}, `{"type":"go"}`)).status, 404);
  const sent = await ask("POST", url, {}, `{"type":"go","payload":{"by":"\\ud800"}}`);
  assert.deepEqual([sent.status, sent.body], [200, `{"sent":"go"}`]);
  const events = await stream.rest();
  assert.equal(events.at(-1).type, "completed");
  await waiting.ended();
  assert.equal((await ask("POST", url, {}, `{"type":"go"}`)).status, 409);
});

describe("pages of other origins, with a cookie", { skip }, () => {
  let browser;
  before(async () => {
    browser = await launch();
  });
  after(() => browser?.close());

  test("watch and answer where they are listed, and nothing else may", async () => {
    const waiting = await start(server, [{ wait: { name: "w", type: "go" } }]);
    const context = await browser.newContext();
    await context.addCookies([{ name: "key", value: `key+of+${waiting.id}`, url: server.url }]);
    const page = await context.newPage();
    const url = at("closed", `/${waiting.id}`);

    await page.goto(stranger.url);
    assert.deepEqual(await page.evaluate(follow, `${url}/sse`), { events: 0, opened: 0 });
    assert.equal(await page.evaluate(readWithFetch, `${url}/sse`), "TypeError");

    await page.goto(site.url);
    const followed = page.evaluate(follow, `${url}/sse`);
    const sent = page.evaluate(
      (url) => fetch(url, { method: "POST", credentials: "include", headers: { "content-type": "application/json" }, body: `{"type":"go"}` }).then((response) => response.status, (error) => error.name),
      `${url}/event`,
    );
    assert.equal(await sent, 200);
    const { events, opened } = await followed;
    assert.equal(opened, 1);
    assert.ok(events >= 4, `${events}`);
    // Without the cookie the request is refused, and the page can read that.
    const refused = await page.evaluate((url) => fetch(url).then((response) => response.status, (error) => error.name), `${url}/sse`);
    assert.equal(refused, 401);
    await context.close();
  });
});

/** Runs in a page: an EventSource with credentials until it is closed. */
function follow(url) {
  const seen = { events: 0, opened: 0 };
  const source = new EventSource(url, { withCredentials: true });
  for (const type of ["started", "completed", "failed"]) source.addEventListener(type, () => (seen.events += 1));
  source.onopen = () => (seen.opened += 1);
  return new Promise((resolve) => {
    source.onerror = () => source.readyState === EventSource.CLOSED && resolve(seen);
  });
}

function readWithFetch(url) {
  return fetch(url, { credentials: "include" }).then((response) => response.status, (error) => error.name);
}

/** Sends a request with this exact path and these exact headers. */
function ask(method, url, headers = {}, body) {
  const { hostname, port } = new URL(url);
  const path = url.slice(url.indexOf("/", "http://".length));
  return new Promise((resolve, reject) => {
    const sent = http.request({ hostname, port, method, path, headers, agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk) => (text += chunk));
      response.once("end", () => resolve({ status: response.statusCode, headers: response.headers, body: text }));
      response.once("error", reject);
    });
    sent.setTimeout(90_000, () => sent.destroy(new Error(`${method} ${url} has no answer`)));
    sent.once("error", reject).end(body);
  });
}

/** A site of another origin. */
function serveSite() {
  return new Promise((resolve) => {
    const site = createServer((_, response) => response.setHeader("content-type", "text/html").end("<!doctype html><title>a site</title>"));
    site.listen(0, "127.0.0.1", () => resolve({ url: `http://127.0.0.1:${site.address().port}`, stop: () => site.close() }));
  });
}
