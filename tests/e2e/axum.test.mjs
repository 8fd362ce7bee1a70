// examples/axum: its page in a real browser, an EventSource of another site while servers come and go, its settings, its end.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { connect } from "node:net";
import { after, before, describe, test } from "node:test";
import { EXAMPLE, dataFolder, serveAxum } from "./lib/axum.mjs";
import { follow, launch, skip, visit } from "./lib/browser.mjs";
import { freePort } from "./lib/ports.mjs";
import { NEEDS_REDIS, startRedis } from "./lib/redis.mjs";

describe("the axum example, in a browser", { skip }, () => {
  let browser;
  before(async () => {
    browser = await launch();
  });
  // Everything that a failing test leaves behind.
  const left = [];
  const keep = (server) => {
    left.push(server);
    return server;
  };
  after(async () => {
    await browser?.close();
    for (const server of left) await server.kill();
  });

  test("a job that is instrumented with tracing is watched live, to its end", async () => {
    const server = keep(await serveAxum());
    // The job may end before anybody asks whether the page is live.
    const record = () => {
      window.connections = [];
      const look = () => window.connections.push(document.querySelector("#connection")?.dataset.state);
      new MutationObserver(look).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-state"] });
    };
    const page = await visit(browser, server.url, { init: [[record]] });
    await follow(page, "#start button", /\/job-[0-9a-f]{16}$/);
    await page.waitForSelector('#connection[data-state="ended"]');
    const connections = await page.evaluate(() => window.connections);
    assert.ok(connections.includes("live"), `${connections}`);
    const history = await page.evaluate(() => window.seen);
    assert.deepEqual(history["import-1.workflow"], ["started", "completed"]);
    assert.deepEqual(history["download-1"], ["started", "completed"]);
    assert.deepEqual(history["notify-1"], ["started", "failed"]);
    assert.match(await page.textContent('[data-task="notify-1"]'), /the mail server does not answer/);
    assert.match(await page.textContent('[data-task="parse-2"]'), /"rows":1200/);
    assert.equal(await page.locator('[data-task="import-1.workflow"] [data-task]').count(), 4);
    page.isClean();
    // The same on the library's page.
    await follow(page, "#run", /\/runs\/job-[0-9a-f]{16}$/);
    await page.waitForSelector('workflow-run[data-connection="ended"]');
    await page.waitForSelector('workflow-run .row[data-task="parse-2"]:visible');
    page.isClean();
    await page.close();
    assert.equal(await server.stop(), 0);
  });

  test("notes are shown to everybody who watches, as text", async () => {
    const server = keep(await serveAxum());
    const first = await visit(browser, server.url);
    await follow(first, "#open button", /\/room$/);
    await first.waitForSelector('#events [data-id="1"]');
    const second = await visit(browser, `${server.url}/room`);
    await second.waitForSelector('#events [data-id="1"]');
    const markup = "<img src=//example.com/x onerror=alert(1)>";
    await second.fill("[name=text]", markup);
    await second.click("#say button");
    for (const page of [first, second]) {
      await page.waitForSelector('#events [data-id="2"]');
      assert.match(await page.textContent('#events [data-id="2"]'), /<img src/);
      assert.equal(await page.locator("main img").count(), 0);
      page.isClean();
    }
    // Both are connected, and are cut off.
    assert.equal(await server.stop(), 0);
    for (const page of [first, second]) {
      await page.waitForSelector('#connection[data-state="reconnecting"]');
      await page.close();
    }
  });

  test("an EventSource of another site, with credentials, loses nothing while its server restarts", NEEDS_REDIS, async () => {
    const redis = await startRedis();
    keep({ kill: () => redis.stop() });
    const site = await serveSite();
    const env = { REDIS_URL: redis.url, ALLOWED_ORIGINS: site.url };
    // A port that nobody else gets while there is no server.
    const port = await freePort();
    let server = keep(await serveAxum({ ...env, PORT: port }));
    const other = keep(await serveAxum(env));
    await dispatch(other, "1");

    const page = await browser.newPage();
    await page.goto(site.url);
    await page.evaluate((url) => {
      window.got = [];
      window.opened = 0;
      window.source = new EventSource(url, { withCredentials: true });
      window.source.onopen = () => (window.opened += 1);
      window.source.addEventListener("note", ({ data }) => window.got.push(data));
      window.ended = new Promise((resolve) => {
        window.source.onerror = () => window.source.readyState === EventSource.CLOSED && resolve();
      });
    }, `${server.url}/room/sse`);
    await page.waitForFunction(() => window.got.length === 1);

    // Once as a deploy does it, once as a crash.
    for (const [number, end] of [[2, "stop"], [4, "kill"]]) {
      await dispatch(server, `${number}`);
      await server[end]();
      await dispatch(other, `${number + 1}`); // while there is no server for the page
      server = keep(await serveAxum({ ...env, PORT: port }));
      await page.waitForFunction((length) => window.got.length === length, number + 1);
    }
    assert.equal(await page.evaluate(() => window.opened), 3);
    await dispatch(other, "6", "&terminal=true");
    await page.evaluate(() => window.ended);
    assert.deepEqual(await page.evaluate(() => window.got), ["1", "2", "3", "4", "5", "6"]);

    // The client waits for a log that cannot be reached.
    await dispatch(other, "7", "", "later");
    await redis.kill();
    await page.evaluate((url) => {
      window.got = [];
      window.opened = 0;
      window.states = [];
      window.source = new EventSource(url, { withCredentials: true });
      window.source.onopen = () => (window.opened += 1);
      window.source.onerror = () => window.states.push(window.source.readyState);
      window.source.addEventListener("note", ({ data }) => window.got.push(data));
    }, `${server.url}/later/sse`);
    await page.waitForFunction(() => window.opened === 2);
    await redis.start();
    await page.waitForFunction(() => window.got.length === 1 || window.states.includes(2));
    assert.deepEqual(await page.evaluate(() => [window.got, window.states.includes(2)]), [["7"], false]);

    // A site that is not on the list sees nothing.
    const stranger = await serveSite();
    await page.goto(stranger.url);
    const seen = await page.evaluate((url) => new Promise((resolve) => {
      const source = new EventSource(url, { withCredentials: true });
      source.addEventListener("note", () => resolve("an event"));
      source.onerror = () => resolve(source.readyState === EventSource.CLOSED ? "refused" : "an error");
    }), `${server.url}/room/sse`);
    assert.equal(seen, "refused");

    await page.close();
    for (const one of [server, other]) assert.equal(await one.stop(), 0);
  });

  /** A site that is not the servers'. A real one: Chromium lets no other reach a server of this machine. */
  async function serveSite() {
    const site = createServer((request, response) => response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html>"));
    await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
    return keep({
      url: `http://127.0.0.1:${site.address().port}`,
      kill() {
        site.closeAllConnections();
        site.close();
      },
    });
  }
});

test("the axum example says what is wrong with its settings, and ends", async () => {
  for (const [env, reason] of [
    [{ PORT: "x" }, /^error: PORT=x is not a port$/m],
    [{ ALLOWED_ORIGINS: "https://app.example.com/" }, /^error: "https:\/\/app.example.com\/" is not an origin: /m],
    [{ REDIS_URL: "http://localhost" }, /^error: \S/m],
    [{ DATA_DIR: EXAMPLE }, /^error: the folder \S+ cannot be used: \S/m],
  ]) {
    const all = { ...process.env, PORT: "0", DATA_DIR: ":memory:", ...env };
    const { status, stderr } = spawnSync(EXAMPLE, [], { env: all, encoding: "utf8" });
    assert.equal(status, 1);
    assert.match(stderr, reason);
  }
});

test("a restart of the axum example loses nothing", async () => {
  const DATA_DIR = dataFolder();
  const expected = [];
  let resumed;
  // Once as a deploy does it, once as a crash.
  for (const end of ["stop", "kill", "stop"]) {
    const server = await serveAxum({ DATA_DIR });
    // A log has one server.
    const second = spawnSync(EXAMPLE, [], { env: { ...process.env, PORT: "0", DATA_DIR }, encoding: "utf8" });
    assert.equal(second.status, 1);
    assert.match(second.stderr, /^error: another server uses the folder \S+$/m);

    assert.deepEqual(await notes(server, "room", expected.length), expected);
    if (resumed) assert.deepEqual(await notes(server, "room", 1, { "last-event-id": `${resumed}` }), expected.slice(resumed));
    for (const data of ["one", "two"]) {
      await dispatch(server, data);
      expected.push({ id: `${expected.length + 1}`, data });
    }
    assert.deepEqual(await notes(server, "room", expected.length), expected);
    resumed = expected.length - 1;
    // Ids that differ in their case are different logs, and a path is not an id.
    if (expected.length === 2) await dispatch(server, "other", "", "Room");
    assert.deepEqual(await notes(server, "Room", 1), [{ id: "1", data: "other" }]);
    for (const id of ["none", "..%2Froom", "room.sqlite"]) {
      assert.equal((await fetch(`${server.url}/${id}/sse`)).status, 404, id);
    }
    await server[end]();
  }
});

/** The first `count` events of a log. */
async function notes(server, log, count, headers = {}) {
  if (count === 0) return [];
  const response = await fetch(`${server.url}/${log}/sse`, { headers });
  assert.equal(response.status, 200);
  let text = "";
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    const found = [...text.matchAll(/^id: (.+)\nevent: note\ndata: (.+)\n\n/gm)];
    if (found.length >= count) return found.slice(0, count).map(([, id, data]) => ({ id, data }));
  }
  throw new Error(`only ${JSON.stringify(text)} came`);
}

test("a client that does not read does not keep the axum example from ending", async () => {
  const server = await serveAxum();
  // Each line is a `data: ` of its own: 7 MB, of which sockets hold only a part.
  await dispatch(server, "\n".repeat(1_000_000));
  const stalled = connect(new URL(server.url).port, "127.0.0.1");
  stalled.write("GET /room/sse HTTP/1.1\r\nhost: test\r\n\r\n");
  await once(stalled, "data");
  stalled.pause();
  const live = await fetch(`${server.url}/room/sse?from=latest`);
  const cut = assert.rejects(live.text()); // not an end
  assert.equal(await server.stop(), 0);
  await cut;
  assert.match(server.log(), /some clients do not read; ending anyway/);
  stalled.destroy();
});

async function dispatch(server, data, query = "", log = "room") {
  const response = await fetch(`${server.url}/${log}?type=note${query}`, { method: "POST", body: data });
  assert.equal(response.status, 201, await response.text());
}
