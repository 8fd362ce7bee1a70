// The demo as the README shows it, and everything it refuses.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { QUICK, answer, isWaiting, refused, serve, startRun } from "./lib/demo.mjs";
import { open, readAll, withoutHeartbeats } from "./lib/sse.mjs";

let demo;
before(async () => {
  demo = await serve();
});
after(() => demo?.stop());

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Shared by all tests that only read: a run that has ended, and the events that its first viewer saw live. */
let finished;
async function finishedRun() {
  finished ??= (async () => {
    const id = await startRun(demo.url);
    const live = await open(`${demo.url}/${id}/sse`);
    await live.until(isWaiting);
    await answer(demo.url, id);
    await live.rest();
    return { id, live, url: `${demo.url}/${id}/sse`, last: live.events.at(-1).id };
  })();
  return finished;
}

describe("the main path", () => {
  test("POST / answers 303 with the stream's address and the id", async () => {
    const response = await fetch(demo.url, { method: "POST", redirect: "manual" });
    assert.equal(response.status, 303);
    assert.equal(response.headers.get("content-type"), "application/json");
    const { id, ...rest } = await response.json();
    assert.deepEqual(rest, {});
    assert.match(id, UUID);
    assert.equal(response.headers.get("location"), `/${id}/sse`);
  });

  test("?id= names the run, once", async () => {
    assert.equal(await startRun(demo.url, { id: "order-1" }), "order-1");
    const again = await post("/?id=order-1");
    assert.deepEqual(again, { status: 409, body: "there is a run with this id\n" });
  });

  test("the stream's headers and first bytes", async () => {
    const stream = await open(`${demo.url}/${await startRun(demo.url)}/sse`);
    const { headers } = stream.response;
    assert.equal(headers.get("content-type"), "text/event-stream");
    assert.equal(headers.get("cache-control"), "no-cache, no-transform");
    assert.equal(headers.get("x-accel-buffering"), "no");
    assert.equal(headers.get("content-encoding"), null);
    await stream.next();
    assert.equal(stream.bytes.subarray(0, 6).toString(), ":\nid: ");
    stream.close();
  });

  test("every event with every field, in order", async () => {
    const { live } = await finishedRun();
    const timestamps = live.events.map(({ json }) => json.timestamp);
    for (const timestamp of timestamps) {
      assert.match(timestamp, /^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      assert.equal(new Date(timestamp).toISOString(), timestamp);
    }
    assert.deepEqual(timestamps, timestamps.toSorted());
    assert.deepEqual(live.events.map(({ id }) => id), live.events.map((_, index) => index + 1));

    // The two steps of the group run at the same time; each has its own order.
    const { before, pack, label, after } = threads(live.events);
    assert.deepEqual(before, [
      ["started", ORDER],
      ["started", step("check stock")],
      ["completed", { ...step("check stock"), attempt: 1 }],
      ["started", step("charge card")],
      ["attempt_failed", { ...step("charge card"), attempt: 1, error: "the bank did not answer" }],
      ["completed", { ...step("charge card"), attempt: 2, attributes: { cents: 7600 } }],
      ["started", FULFIL],
      ["started", PACK],
      ["started", LABEL],
    ]);
    assert.deepEqual(pack, [
      ["progress", { ...PACK, percent: 25, message: "a teapot: 1 of 4 packed" }],
      ["progress", { ...PACK, percent: 50, message: "a teapot: 2 of 4 packed" }],
      ["progress", { ...PACK, percent: 75, message: "a teapot: 3 of 4 packed" }],
      ["progress", { ...PACK, percent: 100, message: "a teapot: 4 of 4 packed" }],
      ["completed", { ...PACK, attempt: 1 }],
    ]);
    assert.deepEqual(label, [["completed", { ...LABEL, attempt: 1 }]]);
    assert.deepEqual(after, [
      ["completed", FULFIL],
      ["started", SLEEP],
      ["completed", SLEEP],
      ["started", { ...WAIT, eventType: "waiting" }],
      ["completed", WAIT],
      ["started", step("hand to carrier")],
      ["completed", { ...step("hand to carrier"), attempt: 1 }],
      ["completed", ORDER],
    ]);
  });

  test("an event is these bytes", async () => {
    const { live } = await finishedRun();
    const { timestamp } = live.events[0].json;
    assert.equal(
      live.events[0].raw,
      `id: 1\nevent: started\ndata: {"taskId":"order-1.workflow","step":"order","kind":"workflow","count":1,"timestamp":"${timestamp}","parentId":null}\n\n`,
    );
  });

  test("live bytes equal replayed bytes", async () => {
    const { url, live } = await finishedRun();
    const replay = await open(url);
    await replay.rest();
    assert.deepEqual(withoutHeartbeats(replay.bytes), withoutHeartbeats(live.bytes));
    assert.equal(withoutHeartbeats(live.bytes).toString(), live.events.map(({ raw }) => raw).join(""));
  });

  test("the body of POST / is the workflow's params", async () => {
    const id = await startRun(demo.url, { params: { ...QUICK, item: "un thé 🫖", quantity: 2 } });
    const stream = await open(`${demo.url}/${id}/sse`);
    await stream.until(({ type, json }) => type === "completed" && json.step === "pack parcel");
    const progress = stream.events.filter(({ type }) => type === "progress");
    assert.deepEqual(
      progress.map(({ json: { percent, message } }) => [percent, message]),
      [[50, "un thé 🫖: 1 of 2 packed"], [100, "un thé 🫖: 2 of 2 packed"]],
    );
    stream.close();
  });

  test("a run that fails says so at the step and at the end", async () => {
    const id = await startRun(demo.url, { params: { ...QUICK, quantity: 0 } });
    const events = await readAll(`${demo.url}/${id}/sse`);
    const error = "nobody can order 0 of a teapot";
    for (const { json } of events) json.error &&= json.error.replace(/^NonRetryableError: /, ""); // added by the platform
    assert.deepEqual(events.map(plain), [
      ["started", ORDER],
      ["started", step("check stock")],
      ["attempt_failed", { ...step("check stock"), attempt: 1, error }],
      ["failed", { ...step("check stock"), attempt: 1, error }],
      ["failed", { ...ORDER, error }],
    ]);
    assert.equal((await fetch(`${demo.url}/${id}/sse`, { headers: { "last-event-id": "5" } })).status, 204);
  });

  test("an event of another type does not end the wait, one sent early does", async () => {
    const id = await startRun(demo.url);
    const stream = await open(`${demo.url}/${id}/sse`);
    await stream.next();
    assert.deepEqual(JSON.parse(await answer(demo.url, id, { type: "other" })), { sent: "other" });
    assert.deepEqual(JSON.parse(await answer(demo.url, id, { payload: { by: "ann" } })), { sent: "waiting" });
    const events = await stream.rest();
    assert.deepEqual(plain(events.at(-1)), ["completed", ORDER]);
    assert.equal((await post(`/${id}/event`)).status, 409);
  });

  test("a viewer that follows the redirect at once never gets 404", async () => {
    for (let round = 0; round < 50; round += 1) {
      const abort = new AbortController();
      const response = await fetch(demo.url, { method: "POST", body: JSON.stringify(QUICK), signal: abort.signal });
      assert.equal(response.status, 200, `round ${round}`);
      assert.ok(response.redirected);
      abort.abort();
    }
    const sse = ["-sS", "-N", "-L", "--data", '{"workMs":0,"quantity":0}', "-w", "%{http_code} %{num_redirects}", demo.url];
    const { stdout } = await promisify(execFile)("curl", sse);
    assert.match(stdout, /^:\nid: 1\nevent: started\n.*\nevent: failed\n.*\n\n200 1$/s);
  });
});

describe("where a viewer begins", () => {
  test("after the id of the header, the queries, or at the beginning", async () => {
    const { url, live } = await finishedRun();
    const from = async (query, lastEventId) => (await readAll(url + query, { lastEventId })).map(({ raw }) => raw);
    const all = live.events.map(({ raw }) => raw);
    assert.deepEqual(await from("", 7), all.slice(7));
    assert.deepEqual(await from("?lastEventId=7"), all.slice(7));
    assert.deepEqual(await from("?last_event_id=7"), all.slice(7));
    assert.deepEqual(await from("?from=beginning"), all);
    assert.deepEqual(await from("?lastEventId=&last_event_id="), all);
    assert.deepEqual(await from("?other=1"), all);
    assert.deepEqual(await from("?lastEventId=7", 9), all.slice(9));
    assert.deepEqual(await from("?from=latest", 9), all.slice(9));
    assert.deepEqual(await from("?lastEventId=abc", 9), all.slice(9));
  });

  test("from=latest gets only new events", async () => {
    const id = await startRun(demo.url);
    const first = await open(`${demo.url}/${id}/sse`);
    await first.until(isWaiting);
    const late = await open(`${demo.url}/${id}/sse?from=latest`);
    await answer(demo.url, id);
    const all = await first.rest();
    const behind = all.findIndex(isWaiting) + 1;
    assert.deepEqual((await late.rest()).map(({ raw }) => raw), all.slice(behind).map(({ raw }) => raw));
  });

  test("the end is 204 without a body", async () => {
    const { url, last } = await finishedRun();
    for (const [query, headers] of [["", { "last-event-id": `${last}` }], [`?lastEventId=${last}`, {}], ["?from=latest", {}]]) {
      const response = await fetch(url + query, { headers });
      assert.equal(response.status, 204);
      assert.equal(await response.text(), "");
    }
  });

  test("an id beyond the head is answered by a reset and everything", async () => {
    const { url, live, last } = await finishedRun();
    for (const beyond of [last + 1, 1_000_000, Number.MAX_SAFE_INTEGER]) {
      const [reset, ...events] = await readAll(url, { lastEventId: beyond });
      assert.equal(reset.raw, `event: reset\ndata: {"requested":${beyond},"oldest":1,"head":${last}}\n\n`);
      assert.deepEqual(events.map(({ raw }) => raw), live.events.map(({ raw }) => raw));
    }
    // Also while it goes on, when silence would look like a run that stands still.
    const id = await startRun(demo.url);
    const stream = await open(`${demo.url}/${id}/sse`, { lastEventId: 1_000 });
    assert.equal((await stream.next()).json.requested, 1_000);
    await stream.until(isWaiting);
    await answer(demo.url, id);
    await stream.rest();
    assert.deepEqual(stream.events.slice(1).map(({ id }) => id), live.events.map(({ id }) => id));
  });

  test("a malformed id is 400 with the reason", async () => {
    const { url } = await finishedRun();
    const bad = ["abc", "0", "-1", "1.5", "1e3", "+1", "0x1", "1 2", "12abc", "12345678901234567890", "9007199254740992", "1,2"];
    for (const id of bad) {
      for (const response of [
        await fetch(url, { headers: { "last-event-id": id } }),
        await fetch(`${url}?lastEventId=${encodeURIComponent(id)}`),
        await fetch(`${url}?last_event_id=${encodeURIComponent(id)}`),
      ]) {
        assert.equal(response.status, 400, id);
        await isReason(response, /^invalid Last-Event-ID: /);
      }
    }
    const from = await fetch(`${url}?from=garbage`);
    assert.equal(from.status, 400);
    await isReason(from, /^invalid from: /);
    // Before the demo looks whether there is such a run.
    assert.equal((await fetch(`${demo.url}/unknown/sse`, { headers: { "last-event-id": "abc" } })).status, 400);
  });
});

describe("what a browser gets", () => {
  test("every page, script and refusal says what a browser may do with it", async () => {
    const { id } = await finishedRun();
    const html = { accept: "text/html,*/*;q=0.8" };
    for (const [path, status, type, headers] of [
      ["/", 200, "text/html", html],
      ["/assets/start.js", 200, "text/javascript"],
      ["/assets/start.css", 200, "text/css"],
      [`/${id}`, 200, "text/html", html],
      ["/unknown", 404, "text/html", html],
      ["/ssetarget/workflow-run.js", 200, "text/javascript"],
      ["/ssetarget/workflow-run.css", 200, "text/css"],
      ["/unknown/sse", 404, "text/plain"],
      ["/unknown", 404, "text/plain"],
      [`/${id}/event`, 405, "text/plain"],
      ["/a/b/c", 404, "text/plain"],
    ]) {
      const response = await fetch(demo.url + path, { headers });
      const body = await response.text();
      assert.equal(response.status, status, path);
      assert.ok(response.headers.get("content-type").startsWith(type), path);
      assert.equal(response.headers.get("x-content-type-options"), "nosniff", path);
      assert.equal(response.headers.get("referrer-policy"), "no-referrer", path);
      const policy = response.headers.get("content-security-policy");
      assert.match(policy, /^default-src 'none'/, path);
      if (type !== "text/html") continue;
      for (const part of ["script-src 'self'", "style-src 'self'", "connect-src 'self'", "base-uri 'none'", "frame-ancestors 'none'"]) {
        assert.ok(policy.includes(part), `${path}: ${policy}`);
      }
      assert.doesNotMatch(body, /<script>|<style|style=|\son[a-z]+=/, path);
    }
  });

  test("a run is a page for people and JSON for programs", async () => {
    const { id } = await finishedRun();
    const get = (accept) => fetch(`${demo.url}/${id}`, { headers: accept ? { accept } : {} });
    for (const [accept, type] of [["text/html,application/xhtml+xml,*/*;q=0.8", "text/html"], ["application/json", "application/json"], ["*/*", "application/json"]]) {
      const response = await get(accept);
      assert.ok(response.headers.get("content-type").startsWith(type), accept);
      assert.match(response.headers.get("vary"), /accept/);
    }
    const page = await (await get("text/html")).text();
    for (const part of [`src="/${id}/sse"`, `snapshot="/${id}"`, `answer="/${id}/event"`]) assert.ok(page.includes(part), page);
    assert.ok(!page.includes("session="), page);
    assert.equal((await (await get("application/json")).json()).state, "completed");
  });

  test("its files are kept for ever by the names in the page, and asked for again by others", async () => {
    const { id } = await finishedRun();
    const page = await (await fetch(`${demo.url}/${id}`, { headers: { accept: "text/html" } })).text();
    const files = [...page.matchAll(/"(\/ssetarget\/[^"]+)"/g)].map(([, path]) => path);
    assert.equal(files.length, 2);
    for (const path of files) {
      const response = await fetch(demo.url + path);
      assert.match(response.headers.get("cache-control"), /immutable/);
      await response.text();
      const [plain] = path.split("?");
      const again = await fetch(demo.url + plain);
      assert.equal(again.headers.get("cache-control"), "no-cache");
      await again.text();
      const known = await fetch(demo.url + plain, { headers: { "if-none-match": again.headers.get("etag") } });
      assert.deepEqual([known.status, await known.text()], [304, ""]);
      assert.equal((await fetch(demo.url + plain, { method: "HEAD" })).status, 200);
    }
    assert.equal((await fetch(`${demo.url}/ssetarget/nothing.js`)).status, 404);
  });

  test("a script gets the page's address, where a redirect would hide it", async () => {
    const response = await fetch(demo.url, { method: "POST", headers: { accept: "application/json" }, body: "{}" });
    const { id, page, ...rest } = await response.json();
    assert.deepEqual([response.status, page, rest], [201, `/${id}`, {}]);
  });

  test("no client may delete a run", async () => {
    const { id, url } = await finishedRun();
    const response = await fetch(`${demo.url}/${id}`, { method: "DELETE" });
    assert.equal(response.status, 401);
    await isReason(response, /^a permission is needed/);
    assert.equal((await fetch(url, { method: "HEAD" })).status, 200);
  });
});

describe("what is refused", () => {
  test("an unknown id is 404", async () => {
    const ids = ["unknown", "a".repeat(100), "a".repeat(101), "a".repeat(300), "-a", "a%20b", "%00", "%F0%9F%AB%96", "..%2Fa", "%2e%2e", "a%3Fb"];
    for (const id of ids) {
      for (const response of [
        await fetch(`${demo.url}/${id}/sse`),
        await fetch(`${demo.url}/${id}`, { headers: { accept: "text/html" } }),
        await fetch(`${demo.url}/${id}/event`, { method: "POST" }),
      ]) {
        const url = new URL(response.url).pathname;
        // `%2e%2e` is the folder above in every URL parser.
        if (!url.startsWith(`/${id}`)) continue;
        assert.equal(response.status, 404, url);
        if (!response.headers.get("content-type").startsWith("text/html")) await isReason(response, /there is no/);
        else await response.text();
      }
    }
    for (const path of ["/a/b/c", "/a/b", "/assets/nothing.js"]) {
      const response = await fetch(demo.url + path);
      assert.equal(response.status, 404, path);
      await isReason(response, /there is n/);
    }
  });

  test("a bad order is 400", async () => {
    const bodies = ["{", "[]", "[1]", '"text"', "5", "true", "null", '{"quantity":"4"}', '{"quantity":-1}', '{"quantity":1.5}', '{"workMs":-1}', '{"item":5}', '{"item":null}', "\0", "quantity=4"];
    for (const body of bodies) {
      const response = await fetch(demo.url, { method: "POST", body, redirect: "manual" });
      assert.equal(response.status, 400, body);
      await isReason(response, /^the body is /);
    }
  });

  // A deeply nested value must be refused before anything walks through it, because that would end the whole
  // WebAssembly instance.
  test("a deeply nested body gets 400, and disturbs no other request", async () => {
    const id = await startRun(demo.url);
    const viewer = await open(`${demo.url}/${id}/sse`);
    await viewer.until(isWaiting);
    for (const depth of [130, 2_000, 5_000, 100_000]) {
      const list = "[".repeat(depth) + "]".repeat(depth);
      const object = '{"a":'.repeat(depth) + "1" + "}".repeat(depth);
      for (const deep of [list, object]) {
        const requests = [`{"item":${deep}}`, `{"quantity":${deep}}`, `{"other":${deep}}`, deep].map((body) => ["/", body]);
        const events = [`{"type":${deep}}`, `{"payload":${deep}}`, `{"payload":{"by":${deep}}}`, `{"type":"other","payload":${deep}}`];
        for (const [path, body] of [...requests, ...events.map((body) => [`/${id}/event`, body])]) {
          const response = await fetch(demo.url + path, { method: "POST", body, redirect: "manual" });
          assert.equal(response.status, body.length > 1024 * 1024 ? 413 : 400, `${path} ${depth} ${body.slice(0, 30)}`);
          await isReason(response, /^the /);
        }
      }
    }
    await answer(demo.url, id);
    assert.equal((await viewer.rest()).at(-1).type, "completed");
  });

  test("a payload of another type is 400, and the run still waits", async () => {
    const id = await startRun(demo.url);
    const viewer = await open(`${demo.url}/${id}/sse`);
    await viewer.until(isWaiting);
    for (const payload of [5, "ann", true, [], ["ann"], { by: 5 }, { by: ["ann"] }, { by: {} }]) {
      const response = await fetch(`${demo.url}/${id}/event`, { method: "POST", body: JSON.stringify({ payload }) });
      assert.equal(response.status, 400, JSON.stringify(payload));
      await isReason(response, /^the payload is not an approval: /);
    }
    await answer(demo.url, id, { payload: null });
    assert.equal((await viewer.rest()).at(-1).type, "completed");
  });

  test("a body that is too long is not read to its end", async () => {
    const tooLarge = { status: 413, body: "the body is larger than 1 MiB\n" };
    // The end never comes: the answer is there without it.
    const unfinished = () => new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array(1.25 * 1024 * 1024).fill(32)) });
    assert.deepEqual(await refused(demo.url, () => ({ body: unfinished(), duplex: "half" })), tooLarge);
    assert.deepEqual(await refused(demo.url, () => ({ body: new Uint8Array(50 * 1024 * 1024) })), tooLarge);
    assert.equal((await fetch(demo.url, { headers: { accept: "text/html" } })).status, 200);
  });

  test("a bad event is 400", async () => {
    const id = await startRun(demo.url);
    const bodies = ["{", "[]", '"waiting"', "5", "null", '{"type":""}', '{"type":5}', '{"type":null}', '{"tpye":"waiting"}', '{"type":"a b"}', `{"type":"${"a".repeat(101)}"}`];
    for (const body of bodies) {
      const response = await fetch(`${demo.url}/${id}/event`, { method: "POST", body });
      assert.equal(response.status, 400, body);
      await isReason(response, /^the /);
    }
  });

  test("a bad id is 400", async () => {
    for (const id of ["", "a b", "a/b", "-a", "é", "a".repeat(101), "a?b", "../a", "\0", "a.b"]) {
      const response = await fetch(`${demo.url}/?id=${encodeURIComponent(id)}`, { method: "POST", redirect: "manual" });
      assert.equal(response.status, 400, id);
      await isReason(response, /^an id has /);
    }
    assert.equal(await startRun(demo.url, { id: "a".repeat(100) }), "a".repeat(100));
  });

  test("a wrong method is 405, with those that are right", async () => {
    const { id } = await finishedRun();
    const routes = [
      ["/", "POST", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]],
      [`/${id}`, "GET, HEAD, DELETE", ["POST", "PUT", "PATCH", "OPTIONS"]],
      [`/${id}/sse`, "GET, HEAD", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"]],
      [`/${id}/instance/sse`, "GET, HEAD", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"]],
      ["/unknown/sse", "GET, HEAD", ["POST", "PUT", "DELETE"]],
      [`/${id}/event`, "POST", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]],
      ["/assets/start.js", "GET", ["POST", "DELETE"]],
      ["/ssetarget/workflow-run.js", "GET, HEAD", ["POST", "DELETE"]],
    ];
    for (const [path, allow, methods] of routes) {
      for (const method of methods) {
        const response = await fetch(demo.url + path, { method });
        assert.equal(response.status, 405, `${method} ${path}`);
        assert.equal(response.headers.get("allow"), allow, `${method} ${path}`);
        await isReason(response, method === "HEAD" ? /^$/ : /./);
      }
    }
    // Methods of other standards, which `fetch` and the `worker` crate do not know.
    for (const [path, allow] of routes) {
      for (const method of ["PROPFIND", "QUERY", "FROB"]) {
        const response = await fetch(demo.url + path, { method, headers: { accept: "text/html" } });
        if (response.status === 501) continue; // the runtime does not let it through
        assert.equal(response.status, 405, `${method} ${path}`);
        assert.equal(response.headers.get("allow"), allow, `${method} ${path}`);
        await isReason(response, /./);
      }
    }
    const json = await fetch(demo.url, { headers: { accept: "application/json" } });
    assert.equal(json.status, 405);
  });

  test("HEAD has the status and headers of GET", async () => {
    const { url, last } = await finishedRun();
    const running = await startRun(demo.url);
    for (const [target, lastEventId, status] of [
      [url, "", 200],
      [url, `${last}`, 204],
      [url, `${last + 1}`, 200],
      [url, "x", 400],
      [`${demo.url}/${running}/sse`, "", 200],
      [`${demo.url}/unknown/sse`, "", 404],
      [`${demo.url}/unknown/sse`, "1", 404],
    ]) {
      const headers = { "last-event-id": lastEventId };
      const get = await fetch(target, { headers });
      const head = await fetch(target, { method: "HEAD", headers });
      assert.deepEqual([get.status, head.status], [status, status], `${target} ${lastEventId}`);
      const kept = ({ headers }) => ["content-type", "cache-control", "x-accel-buffering", "content-encoding"].map((name) => headers.get(name));
      assert.deepEqual(kept(head), kept(get));
      if (status === 200) assert.equal(head.headers.get("content-length"), null, "a stream has none");
      assert.equal(await head.text(), "");
      await get.body?.cancel();
    }
  });

  test("nothing sent to /<id>/sse appends", async () => {
    const { id, url, live } = await finishedRun();
    const body = JSON.stringify([{ type: "completed", key: "x", data: "{}" }]);
    const headers = { "content-type": "application/json", "x-expected": "true" };
    for (const method of ["POST", "PUT", "PATCH", "DELETE"]) {
      for (const path of [`/${id}/sse`, `/${id}/sse?append`, `/${id}/sse/append`, `/${id}/append`, `/${id}/open`]) {
        const response = await fetch(demo.url + path, { method, body, headers });
        assert.ok([404, 405].includes(response.status), `${method} ${path}: ${response.status}`);
        await response.text();
      }
    }
    await (await fetch(`${url}?expected=true`, { headers })).text();
    assert.deepEqual((await readAll(url)).map(({ raw }) => raw), live.events.map(({ raw }) => raw));
    assert.equal((await fetch(`${demo.url}/expected/sse`)).status, 404);
  });
});

const ORDER = { taskId: "order-1.workflow", step: "order", kind: "workflow", count: 1, parentId: null };
const FULFIL = { taskId: "fulfil-1.group", step: "fulfil", kind: "do", count: 1, parentId: ORDER.taskId };
const PACK = { ...step("pack parcel"), parentId: FULFIL.taskId };
const LABEL = { ...step("print label"), parentId: FULFIL.taskId };
const SLEEP = { ...step("let the glue dry"), taskId: "let the glue dry-1.sleep", kind: "sleep" };
const WAIT = { ...step("wait for approval"), taskId: "wait for approval-1.waitForEvent", kind: "waitForEvent" };

function step(name) {
  return { taskId: `${name}-1`, step: name, kind: "do", count: 1, parentId: "order-1.workflow" };
}

function plain({ type, json: { timestamp: _, until, retryAt, ...fields } }) {
  return [type, fields];
}

function threads(events) {
  const all = events.map(plain);
  const begin = all.findIndex(([type, { step }]) => type === "started" && step === "print label") + 1;
  const end = all.findIndex(([type, { step }]) => type === "completed" && step === "fulfil");
  const of = (step) => all.slice(begin, end).filter(([, fields]) => fields.step === step);
  const [pack, label] = [of("pack parcel"), of("print label")];
  assert.equal(pack.length + label.length, end - begin);
  return { before: all.slice(0, begin), pack, label, after: all.slice(end) };
}

async function post(path, body) {
  const response = await fetch(demo.url + path, { method: "POST", body, redirect: "manual" });
  return { status: response.status, body: await response.text() };
}

/** A plain sentence for people, nothing from inside. */
async function isReason(response, pattern) {
  const text = await response.text();
  assert.match(text, pattern);
  assert.match(response.headers.get("content-type"), /^text\/plain/);
  assert.ok(text.length < 200, text);
  assert.doesNotMatch(text, /\bat .*:\d+|Error:|panicked|\.rs\b|wasm/);
}
