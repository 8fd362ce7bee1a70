// <workflow-runs>, the table of all runs: its list and its estimates without a browser, and the element in a real
// browser with 10,000 runs, against a server of its own.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, describe, test } from "node:test";
import { List, remainsOf } from "../../src/page/runs/list.js";
import { drawn, launch, skip, visit } from "./lib/browser.mjs";

const MOST_ROWS = 80;
const START = Date.parse("2026-11-24T09:00:00.000Z");
const iso = (ms) => new Date(START + ms).toISOString();
const run = (n, more = {}) => ({ id: `run-${String(n).padStart(5, "0")}`, workflow: "order", run: 1, state: "completed", started: iso(n * 1000), ended: iso(n * 1000 + 4000), task: "pack", ...more });

describe("the list", () => {
  test("has the latest first, whatever comes in which order, and filters", () => {
    const list = new List();
    for (const n of [3, 1, 2]) list.put(run(n));
    list.put(run(4, { state: "running", ended: undefined, tags: ["red", 7], percent: 120 }));
    list.put(run(5, { state: "failed", error: "the card is blocked" }));
    for (const bad of [null, 7, {}, { id: 7, state: "running" }, { id: "x" }]) list.put(bad);
    const ids = () => list.rows().map(({ id }) => Number(id.slice(4)));
    assert.deepEqual(ids(), [5, 4, 3, 2, 1]);
    assert.deepEqual(list.counts(), [5, 1, 0, 3, 1]);
    assert.deepEqual([list.byId.get("run-00004").percent, list.byId.get("run-00004").tags], [100, ["red"]]);
    list.filter(" Card ", []);
    assert.deepEqual(ids(), [5]);
    list.filter("RED", ["running"]);
    assert.deepEqual(ids(), [4]);
    list.put(run(4, { tags: ["red"] }));
    assert.deepEqual(ids(), []);
    list.filter("", []);
    list.remove("run-00003");
    list.remove("never");
    assert.deepEqual(ids(), [5, 4, 2, 1]);
    // A restart begins later.
    list.put(run(1, { started: iso(9000), run: 2 }));
    assert.deepEqual(ids(), [1, 5, 4, 2]);
  });

  test("shows the remaining time of a run, if it is known", () => {
    const typical = { medianMs: 120_000, lowMs: 60_000, highMs: 240_000 };
    const entry = { state: "running", started: START };
    assert.equal(remainsOf(entry, typical, START + 150_000), "up to 1.5 min");
    assert.equal(remainsOf(entry, null, START), "");
    for (const state of ["completed", "waiting", "failed"]) assert.equal(remainsOf({ ...entry, state }, typical, START), "");
    assert.equal(remainsOf({ ...entry, started: null }, typical, START), "");
  });
});

describe("the table in a browser", { skip }, () => {
  let browser;
  const servers = [];
  before(async () => {
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    for (const server of servers) {
      server.closeAllConnections();
      server.close();
    }
  });

  /** Starts a server of a list, and opens a page with the table. */
  async function serveRuns(runs, { typical = null } = {}) {
    const state = { runs: new Map(runs.map((each) => [each.id, each])), log: [], streams: new Set(), refuse: null, asked: [] };
    const frame = ({ id, type, data }) => `id: ${id}\nevent: ${type}\ndata: ${JSON.stringify(data)}\n\n`;
    const http = createServer((request, response) => {
      const url = new URL(request.url, "http://x");
      const send = (status, type, body) => response.writeHead(status, { "content-type": type, "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:" }).end(body);
      const [, folder, name] = url.pathname.split("/");
      if (folder === "ssetarget") return send(200, name.endsWith(".css") ? "text/css" : "text/javascript", readFileSync(new URL(`../../src/page/${name}`, import.meta.url)));
      if (url.pathname === "/") return send(200, "text/html", `<!doctype html><html lang="en"><title>runs</title><script type="module" src="/ssetarget/workflow-runs.js"></script><link rel="icon" href="data:,"><workflow-runs list="/runs" src="/runs/sse" label="orders"></workflow-runs></html>`);
      if (url.pathname === "/login") return send(200, "text/html", "<!doctype html><title>Log in</title>");
      if (state.refuse === 302) return response.writeHead(302, { location: "/login" }).end();
      if (state.refuse) return send(state.refuse, "text/plain", "no");
      state.asked.push(`${request.url} ${request.headers["last-event-id"] ?? ""}`.trim());
      if (url.pathname === "/runs") {
        const limit = Number(url.searchParams.get("limit"));
        const from = Number(url.searchParams.get("cursor") ?? 0);
        const all = [...state.runs.values()].sort((a, b) => (a.started < b.started ? 1 : -1));
        const page = { runs: all.slice(from, from + limit), cursor: state.log.length || undefined, typical: typical ?? undefined };
        if (from + limit < all.length) page.next = String(from + limit);
        return send(200, "application/json", JSON.stringify(page));
      }
      if (url.pathname !== "/runs/sse") return send(404, "text/plain", "no");
      const after = Number(request.headers["last-event-id"] ?? url.searchParams.get("lastEventId") ?? 0);
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(`:\nretry: 100\n\n${state.log.slice(after).map(frame).join("")}`);
      state.streams.add(response);
      response.on("close", () => state.streams.delete(response));
    });
    await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
    const push = (type, data) => {
      const event = { id: state.log.length + 1, type, data };
      state.log.push(event);
      for (const stream of state.streams) stream.write(frame(event));
    };
    servers.push(http);
    return {
      ...state,
      state,
      url: `http://127.0.0.1:${http.address().port}/`,
      put(data) {
        state.runs.set(data.id, data);
        push("run", data);
      },
      remove(id) {
        state.runs.delete(id);
        push("removed", { id });
      },
      cut: () => state.streams.forEach((stream) => stream.destroy()),
      async stop() {
        state.streams.forEach((stream) => stream.destroy());
        http.closeAllConnections();
        await new Promise((resolve) => http.close(resolve));
      },
    };
  }

  const open = async (url) => {
    const page = await visit(browser, url);
    await page.waitForSelector('workflow-runs[data-connection="live"]');
    await page.evaluate(() => {
      window.table = document.querySelector("workflow-runs");
      window.inTable = (selector) => window.table.shadowRoot.querySelector(selector);
      window.rows = () => [...window.table.shadowRoot.querySelectorAll(".row:not([hidden])")].sort((a, b) => a.getAttribute("aria-rowindex") - b.getAttribute("aria-rowindex"));
      window.shown = () => window.rows().map((row) => row.dataset.run);
    });
    return page;
  };

  test("10,000 runs in few elements, searched, filtered, scrolled and changed live", { timeout: 180_000 }, async () => {
    const runs = Array.from({ length: 10_000 }, (_, n) => run(n, n % 10 === 0 ? { state: "failed", error: "no card" } : {}));
    const typical = { runs: 50, medianMs: 120_000, lowMs: 60_000, highMs: 240_000 };
    const served = await serveRuns(runs, { typical });
    const page = await open(served.url);
    const count = () => page.evaluate(() => Number(inTable("[role=grid]").getAttribute("aria-rowcount")));
    await page.waitForFunction(() => inTable("[role=grid]").getAttribute("aria-rowcount") === "10001");
    assert.ok((await page.evaluate(() => table.shadowRoot.querySelectorAll(".row").length)) <= MOST_ROWS);
    assert.equal((await page.evaluate(() => shown()))[0], "run-09999");
    assert.equal(await page.evaluate(() => inTable(".row a").getAttribute("href")), "/run-09999");
    // Scrolling from end to end.
    for (const part of [0.4, 1]) {
      await page.evaluate((at) => (inTable(".scroller").scrollTop = at * inTable(".scroller").scrollHeight), part);
      await drawn(page);
      assert.ok((await page.evaluate(() => table.shadowRoot.querySelectorAll(".row").length)) <= MOST_ROWS);
    }
    assert.equal((await page.evaluate(() => shown())).at(-1), "run-00000");
    // Filters.
    await page.click("workflow-runs button:has-text('Failed')");
    await page.waitForFunction(() => inTable("[role=grid]").getAttribute("aria-rowcount") === "1001");
    await page.fill("workflow-runs input", "run-0123");
    await page.waitForFunction(() => inTable("[role=grid]").getAttribute("aria-rowcount") === "2");
    assert.deepEqual(await page.evaluate(() => shown()), ["run-01230"]);
    await page.fill("workflow-runs input", "");
    await page.click("workflow-runs button:has-text('All')");
    await page.waitForFunction(() => inTable("[role=grid]").getAttribute("aria-rowcount") === "10001");
    // A live run begins, and is the first. It begins later than now: what remains then does not depend on how long this test takes.
    const now = new Date(Date.now() + 600_000).toISOString();
    served.put({ ...run(20_000), id: "new", state: "running", started: now, ended: undefined, percent: 40, tags: ["red"] });
    await page.waitForFunction(() => shown()[0] === "new");
    const cells = () => page.evaluate(() => [...rows()[0].querySelectorAll(".cell")].map((cell) => cell.textContent));
    const [state, of, task, progress, , rest] = await cells();
    assert.deepEqual([state, of, task, progress], ["Running", "newred", "pack", "40 %"]);
    assert.equal(rest, "about 2 min, usually 1 to 4 min");
    served.put({ ...run(20_000), id: "new", started: now, ended: new Date().toISOString() });
    await page.waitForFunction(() => rows()[0].dataset.look === "completed");
    served.remove("new");
    await page.waitForFunction(() => shown()[0] === "run-09999");
    assert.equal(await count(), 10_001);
    // The keyboard.
    await page.evaluate(() => inTable("[role=grid]").focus());
    for (const key of ["ArrowDown", "ArrowDown", "End", "ArrowUp"]) await page.keyboard.press(key);
    // A row that is not used at the moment may say so, too.
    await page.waitForFunction(() => inTable('.row[aria-selected="true"]:not([hidden])')?.dataset.run === "run-00001");
    assert.equal(await page.evaluate(() => inTable(`#${inTable("[role=grid]").getAttribute("aria-activedescendant")}`).dataset.run), "run-00001");
    page.isClean();
    await page.close();
    await served.stop();
  });

  test("cut off and resumed: nothing is missed, and after a reset the list is read again", { timeout: 180_000 }, async () => {
    const served = await serveRuns([run(1), run(2)]);
    served.put(run(3));
    const page = await open(served.url);
    await page.waitForFunction(() => table.runs.length === 3);
    served.cut();
    served.put(run(4));
    await page.waitForFunction(() => table.runs.length === 4);
    const streams = served.asked.filter((asked) => asked.startsWith("/runs/sse"));
    assert.deepEqual(streams, ["/runs/sse?lastEventId=1", "/runs/sse?lastEventId=1"]);
    // A change that the client misses because the log was deleted.
    served.state.runs.delete("run-00001");
    for (const stream of served.state.streams) stream.write('event: reset\ndata: {"requested":2,"oldest":null,"head":null}\n\n');
    await page.waitForFunction(() => table.runs.length === 3);
    await page.close();
    await served.stop();
  });

  test("hostile strings are text, and viewers without permission get a message", { timeout: 180_000 }, async () => {
    const evil = `<img src=//evil.example/x onerror="document.title='owned'">`;
    const served = await serveRuns([run(1, { id: `${evil}\ud800`, task: "\u202egnp.exe", error: "x".repeat(100_000), state: evil, tags: [evil] }), run(2, { id: "javascript:alert(1)" })]);
    const page = await open(served.url);
    await page.waitForFunction(() => rows().length === 2);
    assert.equal(await page.evaluate(() => table.shadowRoot.querySelectorAll("img, script").length), 0);
    const links = await page.evaluate(() => [...table.shadowRoot.querySelectorAll(".row a")].map((link) => new URL(link.href).protocol));
    assert.deepEqual([...new Set(links)], ["http:"]);
    page.isClean();
    await page.close();
    served.state.refuse = 401;
    const refused = await visit(browser, served.url);
    await refused.waitForSelector('workflow-runs[data-connection="refused"]');
    await refused.waitForSelector("workflow-runs :text('You may not see the runs.')");
    await refused.close();
    await served.stop();
  });

  test("a redirect to a login is said, and is no list without runs", { timeout: 180_000 }, async () => {
    const served = await serveRuns([run(1)]);
    served.state.refuse = 302;
    const page = await visit(browser, served.url);
    await page.waitForSelector("workflow-runs :text('The runs could not be read: the server sends another page, perhaps to log in.')");
    served.state.refuse = null;
    await page.waitForSelector('workflow-runs[data-connection="live"]');
    await page.waitForFunction(() => document.querySelector("workflow-runs").runs.length === 1);
    await page.close();
    await served.stop();
  });
});
