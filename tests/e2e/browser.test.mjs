// The demo's page in a real browser: Debian's chromium, driven by playwright-core.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { launch, skip, visit as visitIn } from "./lib/browser.mjs";
import { answer, isTerminal, isWaiting, serve, startRun } from "./lib/demo.mjs";
import { cuttingProxy, seeded } from "./lib/proxy.mjs";
import { open } from "./lib/sse.mjs";

// Slow enough that each state of a step is drawn.
const SHOWN = { workMs: 150 };
/** Where to put pictures to look at, if anybody wants to. */
const pictures = process.env.SSETARGET_SCREENSHOTS;

describe("in a browser", { skip }, () => {
  let demo;
  let browser;
  before(async () => {
    demo = await serve();
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await demo?.stop();
  });

  test("a run is shown live, is answered, and ends", async () => {
    const id = await startRun(demo.url, { params: SHOWN });
    const page = await visit(`${demo.url}/${id}`);
    await page.waitForSelector('#connection[data-state="live"]');
    await page.waitForSelector('[data-task="pack parcel-1"] progress');
    await picture(page, "working");

    await page.waitForSelector("#send-event:visible");
    assert.equal(await page.getAttribute('[data-task="wait for approval-1.waitForEvent"]', "data-state"), "waiting");
    await picture(page, "waiting");
    await page.click("#send-event");

    await page.waitForSelector('#result[data-state="completed"]');
    await page.waitForSelector('#connection[data-state="ended"]');
    assert.equal(await page.isVisible("#send-event"), false);
    assert.match(await page.textContent("#summary"), /^8 steps · 8 done$/);
    await picture(page, "completed");

    // Each task went through its states and never back. What was over before the page could draw it is not seen.
    const history = await page.evaluate(() => window.seen);
    assert.deepEqual(history["order-1.workflow"], ["running", "done"]);
    assert.deepEqual(history["wait for approval-1.waitForEvent"], ["waiting", "done"]);
    const possible = { "charge card-1": ["running", "retrying", "done"], "let the glue dry-1.sleep": ["sleeping", "done"] };
    for (const [task, states] of Object.entries(history)) {
      const inOrder = (possible[task] ?? ["running", "waiting", "done"]).filter((state) => states.includes(state));
      assert.deepEqual(states, inOrder, task);
    }
    assert.equal(await page.locator("[data-task]").count(), 9);
    assert.equal(await page.locator('[data-task="fulfil-1.group"] [data-task]').count(), 2);
    assert.match(await page.textContent('[data-task="pack parcel-1"]'), /100 %.*a teapot: 4 of 4 packed/s);
    page.isClean();
    await page.close();
  });

  test("one that comes late sees the same, also on a phone", async () => {
    const id = await finishedRun({ workMs: 0 });
    for (const viewport of [{ width: 1280, height: 900 }, { width: 360, height: 740 }]) {
      const page = await visit(`${demo.url}/${id}`, { viewport });
      await page.waitForSelector('#connection[data-state="ended"]');
      assert.equal(await page.locator('[data-task][data-state="done"]').count(), 9);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(overflow, 0);
      await picture(page, `late-${viewport.width}`);
      page.isClean();
      await page.close();
    }
  });

  test("a run that fails says why, and markup in data is text", async () => {
    const item = "<img src=//example.com/x onerror=alert(1)> \u202e & " + "w".repeat(300);
    const id = await startRun(demo.url, { params: { workMs: 0, quantity: 0, item } });
    const page = await visit(`${demo.url}/${id}`, { viewport: { width: 360, height: 740 } });
    await page.waitForSelector('#result[data-state="failed"]');
    await page.waitForSelector('#connection[data-state="ended"]');
    assert.ok((await page.textContent("#result")).includes(`nobody can order 0 of ${item}`));
    assert.equal(await page.locator("main img").count(), 0);
    await picture(page, "failed");
    page.isClean();
    await page.close();
  });

  test("an unknown run is named as such", async () => {
    const page = await visit(`${demo.url}/unknown-run`);
    await page.waitForSelector('#connection[data-state="unknown"]');
    assert.match(await page.textContent("#notice"), /^The run “unknown-run” is unknown\./);
    assert.equal(await page.isVisible("#steps-title"), false);
    await picture(page, "unknown");
    await page.close();
  });

  test("the start page starts a run and shows it", async () => {
    const page = await visit(demo.url);
    await picture(page, "start");
    await page.click("button");
    await page.waitForURL(/\/[0-9a-f-]{32,36}$/);
    await page.waitForSelector('[data-task="order-1.workflow"]');
    page.isClean();
    await page.close();
  });

  test("a page loses nothing and shows nothing twice when its connection is cut", async () => {
    const random = seeded(7);
    const cuts = Array.from({ length: 8 }, () => Math.floor(random() * 900));
    const proxy = await cuttingProxy(demo.url, { cuts, retry: 20 });
    const id = await startRun(demo.url, { params: SHOWN });
    const page = await visit(`${proxy.url}/${id}`);
    await page.click("#send-event");
    await page.waitForSelector('#connection[data-state="ended"]');
    assert.equal(await page.locator('[data-task][data-state="done"]').count(), 9);
    assert.equal(await page.locator("[data-task]").count(), 9);
    const streams = proxy.requests.filter(({ url }) => url.endsWith("/sse"));
    assertCutAndEnded(streams);
    await page.close();
    await proxy.close();
  });

  test("the browser's own EventSource sees each event once and stops", async () => {
    const random = seeded(11);
    const cuts = Array.from({ length: 6 }, () => Math.floor(random() * 900));
    const proxy = await cuttingProxy(demo.url, { cuts, retry: 20 });
    const id = await startRun(demo.url, { params: { workMs: 20 } });
    const page = await visit(proxy.url);
    const following = page.evaluate((url) => {
      const events = [];
      const source = new EventSource(url);
      for (const type of ["started", "attempt_failed", "progress", "completed", "failed", "reset", "restarted", "message"]) {
        source.addEventListener(type, ({ lastEventId, data }) => events.push({ id: Number(lastEventId), type, data }));
      }
      return new Promise((resolve) => {
        source.onerror = () => source.readyState === EventSource.CLOSED && resolve(events);
      });
    }, `/${id}/sse`);
    const reference = await open(`${demo.url}/${id}/sse`);
    await reference.until(isWaiting);
    await answer(demo.url, id);
    await reference.until(isTerminal);

    const plain = reference.events.map(({ id, type, data }) => ({ id, type, data }));
    assert.deepEqual(await following, plain);
    const asked = proxy.requests.filter(({ url }) => url.endsWith("/sse"));
    assertCutAndEnded(asked);
    assert.equal(asked.at(-1).lastEventId, String(plain.at(-1).id));
    await page.close();
    await proxy.close();
  });

  /** Came back again and again, and once more at the end, to be told that it is the end. */
  function assertCutAndEnded(requests) {
    assert.ok(requests.length > 4, `${requests.length} requests`);
    assert.deepEqual(requests.map(({ status }) => status), [...Array(requests.length - 1).fill(200), 204]);
  }

  const visit = (url, options) => visitIn(browser, url, options);

  async function picture(page, name) {
    if (!pictures) return;
    mkdirSync(pictures, { recursive: true });
    await page.screenshot({ path: path.join(pictures, `${name}.png`) });
  }

  async function finishedRun(params) {
    const id = await startRun(demo.url, { params });
    const stream = await open(`${demo.url}/${id}/sse`);
    await stream.until(isWaiting);
    await answer(demo.url, id);
    await stream.rest();
    return id;
  }
});
