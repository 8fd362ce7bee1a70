// Runs that are visible only with a link: tokens by another implementation, cookies in a real browser, the end of a
// permission during a run, revocation, and the answers to wrong tokens.
import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import http from "node:http";
import { after, before, describe, test } from "node:test";

import { launch, skip } from "./lib/browser.mjs";
import { harness } from "./lib/harness.mjs";
import { json, start } from "./lib/script.mjs";
import { open } from "./lib/sse.mjs";

const OLD = randomBytes(32);
const NEW = randomBytes(48);
const KEYS = `k2:${NEW.toString("base64")},k1:${OLD.toString("base64url")}`;
const COOKIE = "__Secure-ssetarget";

const now = () => Math.floor(Date.now() / 1000);

/** Signs a token as any program does. */
function sign(claims, { key = NEW, header = { alg: "HS256", typ: "JWT", kid: "k2" } } = {}) {
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const signed = `${encode(header)}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", key).update(signed).digest("base64url")}`;
}

const claims = (id, more = {}) => ({ aud: "crowd", sub: id, scope: "watch", exp: now() + 60, ...more });
const bearer = (token) => ({ authorization: `Bearer ${token}` });

for (const transport of ["direct", "hibernating"]) {
  describe(transport, () => {
    let server;
    before(async () => {
      server = await harness({ config: `\n[vars]\nTRANSPORT = "${transport}"\nSSETARGET_KEYS = "${KEYS}"\n` });
    });
    after(() => server?.stop());

    /** Starts a run that waits `count` times for an event. */
    const waits = (count) => start(server, Array.from({ length: count }, (_, number) => ({ wait: { name: `w${number}`, type: "go" } })), { workflow: "crowd" });
    const url = (run, path = "sse") => `${server.url}/links/crowd/${run.id}/${path}`;
    const answers = async (id) => (await (await fetch(`${server.url}/crowd/${id}/rpc/answers`, { method: "POST" })).text()).length;
    const revoke = (run) => json(`${run.url}/revoke`, { method: "POST" });

    test("every way of being wrong gets the same bytes, and no object is called", async () => {
      const run = await waits(1);
      const good = sign(claims(run.id));
      assert.equal((await raw("GET", url(run), bearer(good), { cut: true })).status, 200);
      const [head, payload, signature] = good.split(".");
      const wrong = {
        nothing: {},
        expired: bearer(sign(claims(run.id, { exp: now() }))),
        "for too long": bearer(sign(claims(run.id, { exp: now() + 31 * 86_400 }))),
        "without an end": bearer(sign(claims(run.id, { exp: undefined }))),
        "another run's": bearer(sign(claims("another"))),
        "another workflow's": bearer(sign(claims(run.id, { aud: "alpha" }))),
        "to answer only": bearer(sign(claims(run.id, { scope: "answer" }))),
        "of no scope": bearer(sign(claims(run.id, { scope: true }))),
        "of another key": bearer(sign(claims(run.id), { key: randomBytes(32) })),
        "of a key under another id": bearer(sign(claims(run.id), { key: OLD })),
        "of an unknown key": bearer(sign(claims(run.id), { header: { alg: "HS256", kid: "k3" } })),
        unsigned: bearer(`${Buffer.from('{"alg":"none"}').toString("base64url")}.${payload}.`),
        "RS256, with the key's own bytes": bearer(sign(claims(run.id), { header: { alg: "RS256", typ: "JWT", kid: "k2" } })),
        "tampered with": bearer(`${head}.${payload}.${signature.replace(/^./, (first) => (first === "A" ? "B" : "A"))}`),
        "in a query": { query: `?token=${good}` },
        "there twice": { authorization: [`Bearer ${good}`, `Bearer ${good}`] },
        "in a cookie of another name": { cookie: `ssetarget=${good}` },
        garbage: bearer("x".repeat(8_000)),
        basic: { authorization: "Basic YTpi" },
      };
      const before = await answers(run.id);
      const seen = new Set();
      for (const [name, { query = "", ...headers }] of Object.entries(wrong)) {
        for (const id of [run.id, "unknown", "no%20instance", "%FF", "*"]) {
          const path = `${server.url}/links/crowd/${id}`;
          for (const [method, tail, body] of [["GET", "sse"], ["HEAD", "sse"], ["POST", "event", '{"type":"go"}'], ["POST", "session", [headers.authorization ?? ""].flat()[0].slice(7)]]) {
            // This token permits answers, and is good for a session.
            if (name === "to answer only" && id === run.id && method === "POST") continue;
            if (tail === "session" && good === body && id === run.id) continue;
            const answer = await raw(method, `${path}/${tail}${query}`, { accept: "text/event-stream", ...headers }, { body });
            assert.equal(answer.status, 401, `${name} ${method} ${id}/${tail}: ${answer.body}`);
            assert.equal(answer.headers["www-authenticate"], "Bearer");
            if (method !== "HEAD") seen.add(JSON.stringify([answer.headers, answer.body], (key, value) => (["date", "connection", "keep-alive"].includes(key) ? undefined : value)));
          }
        }
      }
      assert.equal(seen.size, 1, [...seen].join("\n"));
      // An object without requests for ten seconds leaves memory, and forgets its answers.
      const none = "Ok([])".length;
      assert.ok([before, none].includes(await answers(run.id)), "the run's object was asked");
      // Calling an object creates it. An object of an unknown id has never answered anything.
      assert.equal(await answers("unknown"), none);
      await run.act("terminate");
    });

    test("tokens of both keys, of every form, and the library's own links", async () => {
      const run = await waits(1);
      const tagged = await start(server, [{ wait: { name: "w", type: "go" } }], { workflow: "crowd", id: `customer-7--${run.id}` });
      const library = await json(`${server.url}/link/crowd/${run.id}`, { method: "POST", body: "{}" });
      assert.match(library.url, new RegExp(`^https://runs.example/${run.id}#t=[\\w-]+\\.[\\w-]+\\.[\\w-]+$`));
      const made = library.url.split("#t=")[1];
      assert.deepEqual(JSON.parse(Buffer.from(made.split(".")[0], "base64url")), { alg: "HS256", typ: "JWT", kid: "k2" });
      const { exp, iat, ...rest } = JSON.parse(Buffer.from(made.split(".")[1], "base64url"));
      assert.deepEqual([rest, exp - iat], [{ aud: "crowd", sub: run.id, scope: "watch answer" }, 60]);
      for (const [to, token] of [
        [run, made],
        [run, sign(claims(run.id), { key: OLD, header: { kid: "k1", alg: "HS256" } })],
        [run, sign(claims("*", { scope: ["watch"] }))],
        [run, sign(claims(run.id, { aud: ["crowd"], exp: now() + 59.5 }))],
        [tagged, sign(claims("tag:customer-7"))],
      ]) {
        const stream = await open(url(to), { headers: bearer(token) });
        assert.equal((await stream.next()).type, "started");
        stream.close();
      }
      assert.equal((await raw("GET", url(run), bearer(sign(claims("tag:customer-7"))))).status, 401);
      // Tokens in the query are accepted if that is switched on.
      const queries = url(run).replace("/links/", "/links-in-queries/");
      const stream = await open(`${queries}?token=${sign(claims(run.id))}`);
      assert.equal((await stream.next()).type, "started");
      stream.close();
      assert.equal((await raw("GET", `${queries}?token=${sign(claims(run.id, { exp: now() + 130 }))}`)).status, 401);
      // Permission to answer.
      const answer = (token) => raw("POST", url(run, "event"), bearer(token), { body: '{"type":"go"}' });
      assert.equal((await answer(sign(claims(run.id)))).status, 401);
      assert.equal((await answer(made)).status, 200);
      await run.ended();
      await tagged.act("terminate");
    });

    test("a stream ends with its permission, and goes on with the next one", async () => {
      const run = await waits(3);
      const until = now() + 8;
      const stream = await open(url(run), { headers: bearer(sign(claims(run.id, { exp: until }))) });
      await stream.until((event) => event.json.taskId === "w0-1.waitForEvent");
      const events = await stream.rest();
      const late = Date.now() / 1000 - until;
      assert.ok(late > -0.05 && late < 12, `${late} s after the end`);
      const last = events.pop();
      assert.deepEqual([last.type, last.data, /^id/m.test(last.raw)], ["expired", '{"renew":true}', false]);
      await run.event("go", {});
      const lastEventId = events.at(-1).id;
      const expired = await raw("GET", url(run), { ...bearer(sign(claims(run.id, { exp: until }))), "last-event-id": lastEventId, accept: "text/event-stream" });
      assert.equal(expired.status, 401);
      const next = await open(url(run), { headers: bearer(sign(claims(run.id))), lastEventId });
      assert.equal((await next.next()).id, lastEventId + 1);
      next.close();
      await run.act("terminate");
    });

    test("revoking ends open streams, and refuses links from before", async () => {
      const run = await waits(3);
      const old = sign(claims(run.id, { gen: 0 }));
      const [first, without, fleet] = await Promise.all([old, sign(claims(run.id)), sign(claims("*"))].map((token) => open(url(run), { headers: bearer(token) })));
      await first.until((event) => event.json.taskId === "w0-1.waitForEvent");
      assert.equal(await revoke(run), 1);
      for (const stream of [first, without, fleet]) {
        assert.equal((await stream.rest()).at(-1).type, "expired");
      }
      const refused = await raw("GET", url(run), bearer(old));
      const missing = await raw("GET", url(run));
      delete refused.headers.date, delete missing.headers.date;
      assert.deepEqual(refused, missing);
      assert.equal((await raw("POST", url(run, "event"), bearer(sign(claims(run.id, { scope: "watch answer" }))), { body: '{"type":"go"}' })).status, 401);
      const fresh = await open(url(run), { headers: bearer(sign(claims(run.id, { gen: 1 }))) });
      assert.equal((await fresh.next()).type, "started");
      // The object forgets its memory, but not the revocations. It cannot be evicted while it writes a stream.
      if (transport === "hibernating") await server.evict("CrowdEvents", `crowd/${run.id}`);
      assert.equal((await raw("GET", url(run), bearer(old))).status, 401);
      const again = await open(url(run), { headers: bearer(sign(claims(run.id, { gen: 1 }))) });
      assert.equal((await again.next()).type, "started");
      assert.equal(await revoke(run), 2);
      assert.equal((await again.rest()).at(-1).type, "expired");
      // Without a link nothing is asked or stored, and a log that never revoked has no row for it.
      const other = await waits(1);
      const stream = await open(url(other), { headers: bearer(sign(claims(other.id))) });
      await stream.next();
      stream.close();
      // The runtime has a table for what is stored by keys, and lets nobody read it.
      const keyed = (of) => server.sql("CrowdEvents", `crowd/${of.id}`, "SELECT name FROM sqlite_master WHERE name = '_cf_KV'");
      assert.deepEqual([await keyed(run), await keyed(other)], [[{ name: "_cf_KV" }], []]);
      await other.act("terminate");
      await run.act("terminate");
    });

    if (transport === "direct") {
      test("revoking ends an open stream of the platform's log, too, within half a minute", { timeout: 300_000 }, async () => {
        const run = await waits(1);
        const stream = await open(url(run, "instance/sse"), { headers: bearer(sign(claims(run.id, { exp: now() + 600 }))) });
        await stream.next();
        await revoke(run);
        const began = Date.now();
        assert.equal((await stream.rest()).at(-1).type, "expired");
        assert.ok(Date.now() - began < 120_000, "before the permission itself ends");
        await run.act("terminate");
      });

      test("relays obey permissions too", async () => {
        const run = await waits(3);
        const until = now() + 12;
        const viewers = [];
        for (let number = 0; number < 8; number += 1) {
          const more = number % 2 === 0 ? { exp: until } : {};
          viewers.push(await open(url(run), { headers: bearer(sign(claims(run.id, more))) }));
        }
        const watched = async (place) => JSON.parse(await (await fetch(`${server.url}/crowd/${run.id}${place}/rpc/watched`, { method: "POST" })).text());
        const relays = await Promise.all(["~1", "~2", "~3", "~4"].map(watched));
        assert.ok(relays.some(([here]) => here > 0), JSON.stringify(relays));
        const short = viewers.filter((_, number) => number % 2 === 0);
        for (const viewer of short) assert.equal((await viewer.rest()).at(-1).type, "expired");
        const late = Date.now() / 1000 - until;
        assert.ok(late > -0.05 && late < 12, `${late} s after the end`);
        await revoke(run);
        const began = Date.now();
        for (const viewer of viewers.filter((_, number) => number % 2 === 1)) assert.equal((await viewer.rest()).at(-1).type, "expired");
        assert.ok(Date.now() - began < 12_000, `${Date.now() - began} ms after revoking`);
        for (let number = 0; number < 6; number += 1) assert.equal((await raw("GET", url(run), bearer(sign(claims(run.id))))).status, 401);
        await run.act("terminate");
      });
    }

    describe("in a browser", { skip }, () => {
      let browser;
      before(async () => {
        browser = await launch();
      });
      after(() => browser?.close());

      test("a page exchanges its link for a cookie, renews it during the run, and misses nothing", async () => {
        const run = await waits(6);
        const context = await browser.newContext();
        const page = await context.newPage();
        const requests = [];
        page.on("request", (request) => requests.push(request.url()));
        // Any page of the same origin will do.
        await page.goto(`${server.url}/nothing#t=${sign(claims(run.id, { exp: now() + 10 }))}`);
        const path = `/links/crowd/${run.id}`;
        const tokens = [sign(claims(run.id, { exp: now() + 600 }))];
        const watching = page.evaluate(watch, [path, tokens]);
        for (let number = 0; number < 6; number += 1) {
          // The permission ends in the middle of the run, whatever else the machine has to do.
          if (number === 3) await page.waitForFunction(() => window.seen?.expired === 1);
          await run.event("go", {});
        }
        const seen = await watching;
        assert.equal(seen.withoutCookie, 401);
        assert.ok(seen.sessions[0].expiresIn <= 10 && seen.sessions[1].expiresIn > 30, JSON.stringify(seen.sessions));
        assert.equal(seen.expired, 1);
        assert.equal(seen.visible, "", "the cookie is not for scripts");
        assert.deepEqual(seen.ids, Array.from({ length: seen.ids.length }, (_, index) => index + 1));
        assert.ok(seen.ids.length >= 14, `${seen.ids}`);
        const [cookie] = (await context.cookies(`${server.url}${path}/sse`)).filter(({ name }) => name === COOKIE);
        assert.deepEqual([cookie.path, cookie.httpOnly, cookie.secure, cookie.sameSite], [path, true, true, "Lax"]);
        // The cookie is not sent for another run's path, not even for one with the same beginning.
        assert.deepEqual((await context.cookies(`${server.url}${path}0/sse`)).map(({ name }) => name), []);
        for (const address of requests) assert.doesNotMatch(address.split("#")[0], /eyJ/, "a token in a request line");
        await context.close();
      });

      test("an EventSource without a permission, and one whose permission ends, stop", async () => {
        const run = await waits(1);
        const context = await browser.newContext();
        const page = await context.newPage();
        await page.goto(`${server.url}/nothing`);
        const path = `/links/crowd/${run.id}`;
        const follow = () => page.evaluate((sse) => {
          const seen = { opened: 0, expired: 0, errors: 0 };
          const source = new EventSource(sse);
          source.onopen = () => (seen.opened += 1);
          source.addEventListener("expired", () => (seen.expired += 1));
          return new Promise((resolve) => {
            source.onerror = () => ((seen.errors += 1), source.readyState === EventSource.CLOSED && resolve(seen));
          });
        }, `${path}/sse`);
        assert.deepEqual(await follow(), { opened: 0, expired: 0, errors: 1 });
        await page.evaluate(([path, token]) => fetch(`${path}/session`, { method: "POST", body: token }), [path, sign(claims(run.id, { exp: now() + 10 }))]);
        // The EventSource reconnects by itself, once, and is refused.
        assert.deepEqual(await follow(), { opened: 1, expired: 1, errors: 2 });
        await context.close();
        await run.act("terminate");
      });
    });
  });
}

test("a Worker whose keys cannot be used says how to make them", async () => {
  for (const [config, says] of [["", /there is no secret SSETARGET_KEYS.*wrangler secret put.*openssl rand -base64 32/], ['\n[vars]\nSSETARGET_KEYS = "k1:c2hvcnQ"\n', /key 1 for links has 5 bytes, and needs at least 32.*openssl rand/]]) {
    const server = await harness({ config });
    try {
      const answer = await raw("GET", `${server.url}/links/crowd/a/sse`);
      assert.ok(answer.status >= 500, `${answer.status}`);
      assert.match(`${answer.body} ${JSON.stringify(server.log())}`, says);
      assert.doesNotMatch(answer.body, /c2hvcnQ/);
    } finally {
      await server.stop();
    }
  }
});

/** Runs in a page: brings its link's token, watches to the end, and renews with `tokens` when needed. */
async function watch([path, tokens]) {
  const seen = (window.seen = { ids: [], sessions: [], expired: 0 });
  seen.withoutCookie = (await fetch(`${path}/sse`)).status;
  const session = async (body) => seen.sessions.push(await (await fetch(`${path}/session`, { method: "POST", body })).json());
  await session(new URLSearchParams(location.hash.slice(1)).get("t"));
  history.replaceState(null, "", location.pathname);
  seen.visible = document.cookie;
  let last = "";
  return new Promise((resolve, reject) => {
    const read = () => {
      const source = new EventSource(`${path}/sse${last && `?lastEventId=${last}`}`);
      const take = (event) => {
        seen.ids.push(Number((last = event.lastEventId)));
        if (event.type !== "started" && event.data.includes('"kind":"workflow"')) source.close(), resolve(seen);
      };
      for (const type of ["started", "completed", "failed", "progress", "attempt_failed"]) source.addEventListener(type, take);
      source.addEventListener("expired", async () => {
        seen.expired += 1;
        source.close();
        await session(tokens.shift());
        read();
      });
      source.onerror = () => source.readyState === EventSource.CLOSED && reject(new Error(`refused after ${last}`));
    };
    read();
  });
}

/** Sends a request with raw headers. Resolves to the whole answer, or with `cut` to its status. */
function raw(method, url, headers = {}, { body, cut } = {}) {
  return new Promise((resolve, reject) => {
    const sent = http.request(url, { method, headers, agent: false }, (response) => {
      const { statusCode: status, headers } = response;
      if (cut) return response.destroy(), resolve({ status, headers });
      let text = "";
      response.setEncoding("utf8").on("data", (chunk) => (text += chunk));
      response.once("end", () => resolve({ status, headers, body: text }));
      response.once("error", reject);
    });
    sent.setTimeout(90_000, () => sent.destroy(new Error(`${method} ${url} has no answer`)));
    sent.once("error", reject);
    sent.end(body);
  });
}
