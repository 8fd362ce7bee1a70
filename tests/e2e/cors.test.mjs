// Pages of other origins: EventSources with credentials in a real browser, and the same answers from a Worker and from axum.
import assert from "node:assert/strict";
import http, { createServer } from "node:http";
import { after, before, describe, test } from "node:test";
import { serveAxum } from "./lib/axum.mjs";
import { launch, skip } from "./lib/browser.mjs";
import { serve, startRun } from "./lib/demo.mjs";
import { harness } from "./lib/harness.mjs";
import { start } from "./lib/script.mjs";
import { readAll } from "./lib/sse.mjs";
import { becomes } from "./lib/wait.mjs";

const FINISHED = { workMs: 0, quantity: 0 };

/** The servers of each kind: a log that has ended, its last id, and the server. */
let servers;
let sites;
const left = [];
before(async () => {
  sites = [await serveSite(), await serveSite()];
  left.push(...sites);
  const origins = `${sites[0].url},https://app.example.com`;
  const demo = await serve({ vars: { ALLOWED_ORIGINS: origins } });
  left.push(demo);
  const id = await startRun(demo.url, { params: FINISHED });
  const { length } = await readAll(`${demo.url}/${id}/sse`);
  const axum = await serveAxum({ ALLOWED_ORIGINS: origins });
  left.push(axum);
  for (let number = 1; number <= length; number += 1) {
    const end = number === length ? "&terminal=true" : "";
    const response = await fetch(`${axum.url}/room?type=failed${end}`, { method: "POST", body: "{}" });
    assert.equal(response.status, 201);
  }
  servers = {
    "the demo Worker": { url: demo.url, path: `/${id}/sse`, last: length },
    "the demo Worker, the platform's log": { url: demo.url, path: `/${id}/instance/sse` },
    axum: { url: axum.url, path: "/room/sse", last: length },
  };
});
after(async () => {
  for (const server of left) await (server.stop ?? server.kill)();
});

const METHODS = ["GET", "HEAD", "OPTIONS", "POST", "DELETE"];

/** Everything that must not depend on the server: status, headers, and the body if it is a reason. */
async function answers({ url, path, last }) {
  const all = {};
  const ask = async (name, method, path, headers) => {
    const { status, headers: got, body } = await request(method, url + path, headers);
    const names = ["allow", "cache-control", "content-type", "retry-after", "vary", "x-accel-buffering"];
    const kept = Object.entries(got).filter(([name]) => names.includes(name) || name.startsWith("access-control-"));
    const isReason = status >= 400 && path === servers["the demo Worker"].path;
    all[name] = { status, ...Object.fromEntries(kept.sort()), body: isReason || status === 204 ? body : undefined, hasBody: body !== "" };
  };
  for (const [who, origin] of Object.entries({ allowed: "https://app.example.com", other: "https://evil.example", null: "null", nobody: undefined })) {
    const headers = origin === undefined ? [] : ["Origin", origin];
    for (const method of METHODS) {
      await ask(`${method} by ${who}`, method, path, headers);
      await ask(`${method} of a bad id by ${who}`, method, path, [...headers, "Last-Event-ID", "x"]);
      await ask(`${method} of the end by ${who}`, method, path, [...headers, "Last-Event-ID", `${last}`]);
      await ask(`${method} of an unknown log by ${who}`, method, path.replace(/^\/[^/]+/, "/unknown"), headers);
    }
    for (const method of ["GET", "DELETE"]) {
      const asks = ["Access-Control-Request-Method", method, "Access-Control-Request-Headers", "last-event-id"];
      await ask(`preflight of ${method} by ${who}`, "OPTIONS", path, [...headers, ...asks]);
      await ask(`preflight of ${method} of an unknown log by ${who}`, "OPTIONS", path.replace(/^\/[^/]+/, "/unknown"), [...headers, ...asks]);
    }
  }
  // Positions, each as a list of raw headers and a query.
  for (const [query, ...ids] of [["", "1", "2"], ["", "2", "2"], ["", "", "2"], ["", " 2 "], ["", "  "], ["", "1 2"], ["", "1, 2"], ["", "\u00e9"], ["", "\u00ff\u00fe"], ["", "1".repeat(10_000)],
    ["?lastEventId=2&lastEventId=x"], ["?lastEventId=&lastEventId=2"], ["?lastEventId=x&lastEventId=2"], ["?lastEventId=%202"], ["?lastEventId=2+"], ["?lastEventId=%FF"], ["?lastEventId=%"], ["?lastEventId=%00"], ["?lastEventId=%32"], ["?LASTEVENTID=x"], ["?from=latest&from=x"], ["?from=x"]]) {
    await ask(`${query} ${ids.map((id) => `[${id.slice(0, 20)}]`)}`, "GET", path + query, ids.flatMap((id) => ["Last-Event-ID", id]));
  }
  return all;
}

test("a Worker answers what axum answers", async () => {
  const [worker, axum] = [await answers(servers["the demo Worker"]), await answers(servers.axum)];
  for (const [name, answer] of Object.entries(worker)) {
    // The program chooses the words for an unknown log.
    if (name.includes("unknown")) delete answer.body, delete axum[name].body;
    assert.deepEqual({ ...answer, body: undefined }, { ...axum[name], body: undefined }, name);
  }
  const of = (name) => worker[name];
  assert.equal(of("GET by allowed")["access-control-allow-origin"], "https://app.example.com");
  assert.equal(of("GET of a bad id by allowed")["access-control-allow-credentials"], "true");
  assert.deepEqual([of("preflight of GET by allowed").status, of("preflight of GET by allowed")["access-control-max-age"]], [204, "3600"]);
  assert.deepEqual([of("OPTIONS by allowed").status, of("OPTIONS by allowed").allow], [405, "GET, HEAD"]);
  assert.deepEqual([of("HEAD by nobody").status, of("HEAD of the end by nobody").status, of("HEAD of a bad id by nobody").status, of("HEAD of an unknown log by nobody").status], [200, 204, 400, 404]);
  assert.equal(of(" [1],[2]").status, 400);
  for (const [name, answer] of Object.entries(worker)) {
    const allowed = name.endsWith("by allowed");
    assert.equal(answer["access-control-allow-origin"], allowed ? "https://app.example.com" : undefined, name);
    if (!allowed) assert.deepEqual(Object.keys(answer).filter((name) => name.startsWith("access-control-")), [], name);
    assert.equal(answer.vary, "origin", name);
  }
});

test("the platform's own log has the same CORS and answers HEAD", async () => {
  const { url, path } = servers["the demo Worker, the platform's log"];
  const headers = ["Origin", "https://app.example.com"];
  const get = await request("GET", url + path, headers);
  const ids = [...get.body.matchAll(/^id: (\d+)$/gm)].map(([, id]) => id);
  for (const [more, status] of [[[], 200], [["Last-Event-ID", ids.at(-1)], 204], [["Last-Event-ID", "x"], 400], [["Last-Event-ID", "1", "Last-Event-ID", "2"], 400]]) {
    for (const method of ["GET", "HEAD"]) {
      const response = await request(method, url + path, [...headers, ...more]);
      assert.equal(response.status, status, `${method} ${more}`);
      assert.equal(response.headers["access-control-allow-origin"], "https://app.example.com");
      if (method === "HEAD") assert.equal(response.body, "");
      if (status === 200) assert.equal(response.headers["content-type"], "text/event-stream");
    }
  }
  assert.equal((await request("HEAD", url + path.replace(/^\/[^/]+/, "/unknown"), headers)).status, 404);
  assert.equal((await request("OPTIONS", url + path, [...headers, "Access-Control-Request-Method", "GET"])).status, 204);
});

describe("in a browser", { skip }, () => {
  let browser;
  before(async () => {
    browser = await launch();
  });
  after(() => browser?.close());

  for (const name of ["the demo Worker", "the demo Worker, the platform's log", "axum"]) {
    test(`a page of another site, ${name}`, async () => {
      const { url, path } = servers[name];
      const page = await browser.newPage();
      await page.goto(sites[0].url);
      // With credentials, to the end, and with a header that a preflight asks for.
      const ended = await page.evaluate(follow, url + path);
      assert.ok(ended.events > 3, JSON.stringify(ended));
      assert.deepEqual([ended.opened, ended.state], [1, 2]);
      const read = (path, headers) => page.evaluate(readWithFetch, [url + path, headers]);
      assert.equal((await read(path, { "last-event-id": "1" })).status, 200);
      const bad = await read(path, { "last-event-id": "x" });
      assert.equal(bad.status, 400);
      assert.match(bad.text, /^invalid Last-Event-ID: /);
      assert.equal((await read(path.replace(/^\/[^/]+/, "/unknown"), {})).status, 404);

      await page.goto(sites[1].url);
      const refused = await page.evaluate(follow, url + path);
      assert.deepEqual(refused, { events: 0, opened: 0, state: 2 });
      assert.equal(await read(path, {}), "TypeError");
      assert.equal(await read(path, { "last-event-id": "1" }), "TypeError");
      await page.close();
    });
  }
});

/** In a page: an EventSource until it is closed. */
function follow(url) {
  const seen = { events: 0, opened: 0 };
  const source = new EventSource(url, { withCredentials: true });
  for (const type of ["started", "attempt_failed", "failed", "workflow_queued", "workflow_running", "workflow_failed", "step_started", "attempt_started", "attempt_failed", "step_failed"]) {
    source.addEventListener(type, () => (seen.events += 1));
  }
  source.onopen = () => (seen.opened += 1);
  return new Promise((resolve) => {
    source.onerror = () => source.readyState === EventSource.CLOSED && resolve({ ...seen, state: source.readyState });
  });
}

function readWithFetch([url, headers]) {
  return fetch(url, { headers, credentials: "include" }).then(
    async (response) => ({ status: response.status, text: await response.text() }),
    (error) => error.name,
  );
}

describe("the library's responses are the Worker's to extend", () => {
  for (const transport of ["direct", "hibernating"]) {
    describe(transport, () => {
      let server;
      let run;
      before(async () => {
        server = await harness({ config: `\n[vars]\nTRANSPORT = "${transport}"\n` });
        run = await start(server, [{ do: { name: "a" } }]);
        await run.ended();
      });
      after(() => server?.stop());

      const headers = ["Origin", "https://app.example.com"];
      const open = async () => Number(await (await fetch(`${server.url}/open`)).text());

      test("200, 204 and refusals", async () => {
        const { length } = await readAll(run.sse);
        const paths = [["sse", length], ["instance", undefined]];
        for (const [what, last] of paths) {
          const path = `${server.url}/headers/alpha/${run.id}/${what}`;
          const get = await request("GET", path, headers);
          const end = last ?? [...get.body.matchAll(/^id: (\d+)$/gm)].at(-1)[1];
          for (const [more, status] of [[[], 200], [["Last-Event-ID", `${end}`], 204], [["Last-Event-ID", "x"], 400]]) {
            for (const method of ["GET", "HEAD"]) {
              const response = await request(method, path, [...headers, ...more]);
              assert.equal(response.status, status, `${method} ${what} ${more}`);
              assert.equal(response.headers["x-own"], "set");
              assert.equal(response.headers["access-control-allow-origin"], "https://app.example.com");
            }
          }
          for (const [method, status] of [["GET", 404], ["HEAD", 404], ["DELETE", 405]]) {
            const response = await request(method, path.replace(run.id, "unknown"), headers);
            assert.deepEqual([response.status, response.headers["x-own"]], [status, "set"], `${method} ${what}`);
          }
        }
        await becomes(open, 0);
      });

      test("an object of one's own under CORS", async () => {
        const own = `${server.url}/headers/own/cors-${transport}`;
        await request("POST", `${own}/dispatch`, headers, "goodbye");
        const response = await request("GET", `${own}/sse`, headers);
        assert.deepEqual([response.status, response.headers["access-control-allow-origin"]], [200, "https://app.example.com"]);
        assert.match(response.body, /goodbye/);
      });

      test("a stream that is extended stays live", async () => {
        const waiting = await start(server, [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }]);
        const abort = new AbortController();
        const response = await fetch(`${server.url}/headers/alpha/${waiting.id}/sse`, { signal: abort.signal, headers: { origin: "https://app.example.com" } });
        assert.equal(response.headers.get("x-own"), "set");
        const reader = response.body.getReader();
        let text = "";
        const until = async (wanted) => {
          while (!text.includes(wanted)) text += Buffer.from((await reader.read()).value).toString();
        };
        await until('"kind":"waitForEvent"');
        await waiting.event("go", {});
        await until('"kind":"workflow"');
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          text += Buffer.from(value).toString();
        }
        assert.match(text, /event: completed\n.*"kind":"workflow"/);
      });

      test("a viewer of it who leaves is missed", { skip: transport === "hibernating" && "its viewers are sockets" }, async () => {
        const waiting = await start(server, Array.from({ length: 60 }, (_, number) => ({ wait: { name: `w${number}`, type: "go" } })), { workflow: "crowd" });
        const viewers = async () => JSON.parse(await (await fetch(`${waiting.url}/rpc/watched`, { method: "POST" })).text())[0];
        const abort = new AbortController();
        const response = await fetch(`${server.url}/headers/crowd/${waiting.id}/sse`, { signal: abort.signal });
        await response.body.getReader().read();
        assert.equal(await viewers(), 1);
        // A HEAD request is not a viewer, however many come: a third viewer would be sent to a relay.
        for (let round = 0; round < 4; round += 1) {
          const head = await fetch(waiting.sse, { method: "HEAD" });
          assert.deepEqual([head.status, await viewers()], [200, 1]);
        }
        const answers = await (await fetch(`${waiting.url}/rpc/answers`, { method: "POST" })).text();
        assert.doesNotMatch(answers, /421/);
        abort.abort();
        // A departure is noticed when something is written, by the runtime only the second or third time.
        while ((await viewers()) > 0) {
          await waiting.event("go", {});
          await new Promise((resolve) => setTimeout(resolve, 250));
        }
        await waiting.act("terminate");
      });
    });
  }
});

/** Sends a request with headers as they are, in pairs. Resolves to the whole answer, whatever the status is. */
function request(method, url, headers = [], body) {
  return new Promise((resolve, reject) => {
    const { host, hostname, port, pathname, search } = new URL(url);
    const raw = ["Host", host, ...headers, ...(body ? ["Content-Length", Buffer.byteLength(body)] : [])];
    const sent = http.request({ hostname, port, method, path: pathname + search, headers: raw, agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk) => (text += chunk));
      response.once("end", () => resolve({ status: response.statusCode, headers: response.headers, body: text }));
      response.once("error", reject);
    });
    sent.setTimeout(90_000, () => sent.destroy(new Error(`${method} ${url} has no answer`)));
    sent.once("error", reject);
    sent.end(body);
  });
}

/** A site that is not the servers'. */
async function serveSite() {
  const site = createServer((request, response) => response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html>"));
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${site.address().port}`,
    stop() {
      site.closeAllConnections();
      site.close();
    },
  };
}
