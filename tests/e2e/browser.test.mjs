// The demo's page in a real browser: Debian's chromium, driven by playwright-core.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { drawn, follow, launch, skip, visit as visitIn } from "./lib/browser.mjs";
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

  test("a run is shown live, survives a reload, is answered, and ends", async () => {
    const id = await startRun(demo.url, { params: SHOWN });
    const page = await visit(`${demo.url}/${id}`);
    await page.waitForSelector('workflow-run[data-connection="live"]');
    await page.waitForSelector('workflow-run .row[data-task="pack parcel-1"]:visible');
    await picture(page, "working");
    await page.reload();

    await page.waitForSelector('workflow-run .row[data-task="wait for approval-1.waitForEvent"] .answer:visible');
    await picture(page, "waiting");
    await page.click('workflow-run .row[data-task="wait for approval-1.waitForEvent"] .answer');
    assert.equal(await page.inputValue("#answer-type"), "waiting");
    // The page shows the demo's refusal.
    await page.fill("#answer-payload", "[5]");
    await page.click("workflow-run .answer-form button[type=submit]");
    await page.waitForSelector("#answer-error:text('the payload is not an approval')");
    await page.fill("#answer-payload", '{"by": "Ada"}');
    await page.click("workflow-run .answer-form button[type=submit]");

    await page.waitForSelector('workflow-run[data-state="completed"][data-connection="ended"]');
    await page.waitForSelector("workflow-run .answer", { state: "hidden" });
    await picture(page, "completed");
    const run = await view(page);
    assert.deepEqual([run.workflow, run.taskCount, run.cursor > 20], ["order", 8, true]);
    assert.deepEqual(run.tasks.map(({ taskId, state }) => [taskId, state]), [
      ["check stock-1", "completed"],
      ["charge card-1", "completed"],
      ["fulfil-1.group", "completed"],
      ["let the glue dry-1.sleep", "completed"],
      ["wait for approval-1.waitForEvent", "completed"],
      ["hand to carrier-1", "completed"],
    ]);
    assert.deepEqual(run.tasks[2].tasks.map(({ taskId }) => taskId), ["pack parcel-1", "print label-1"]);
    await page.close();
  });

  test("one that comes late sees the same, also on a phone", async () => {
    const id = await finishedRun({ workMs: 0 });
    for (const viewport of [{ width: 1280, height: 900 }, { width: 360, height: 740 }]) {
      const page = await visit(`${demo.url}/${id}`, { viewport });
      await page.waitForSelector('workflow-run[data-state="completed"][data-connection="ended"]');
      assert.equal((await view(page)).taskCount, 8);
      await page.waitForSelector("workflow-run .row[data-task]:visible");
      await drawn(page);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(overflow, 0);
      await picture(page, `late-${viewport.width}`);
      page.isClean();
      await page.close();
    }
  });

  test("a run that fails says why, and markup in data is text", async () => {
    const item = "<img src=//example.com/x onerror=alert(1)> & " + "w".repeat(300);
    const id = await startRun(demo.url, { params: { workMs: 0, quantity: 0, item } });
    const page = await visit(`${demo.url}/${id}`, { viewport: { width: 360, height: 740 } });
    await page.waitForSelector('workflow-run[data-state="failed"][data-connection="ended"]');
    await page.waitForSelector("workflow-run .banner:has-text('nobody can order 0 of <img src=//example.com/x')");
    assert.equal(await page.evaluate(() => document.querySelector("workflow-run").shadowRoot.querySelectorAll("img").length), 0);
    await picture(page, "failed");
    page.isClean();
    await page.close();
  });

  test("an unknown run is named as such", async () => {
    const page = await visit(`${demo.url}/unknown-run`);
    await page.waitForSelector('workflow-run[data-connection="unknown"]');
    await page.waitForSelector("workflow-run .banner:has-text('There is no such run')");
    await picture(page, "unknown");
    await page.close();
  });

  test("the start page starts what its form says, shows it, and finds it again", async () => {
    const page = await visit(demo.url);
    assert.equal(await page.isVisible("#runs"), false);
    assert.match(await page.textContent("#access"), /This demo is open/);
    await picture(page, "start");
    await page.fill("[name=item]", "<b>a cup</b>");
    await page.fill("[name=quantity]", "2");
    await page.fill("[name=workMs]", "20");
    await follow(page, "#start button", /\/[0-9a-f-]{32,36}$/);
    await page.waitForSelector('workflow-run .row[data-task="pack parcel-1"]:visible');
    const url = page.url();
    await page.goto(demo.url);
    await page.waitForSelector("#runs a");
    assert.equal(await page.textContent("#runs a"), "2 × <b>a cup</b>");
    await picture(page, "start-again");
    await follow(page, "#runs a", url);
    await page.goto(demo.url);
    await page.click("#forget");
    assert.equal(await page.isVisible("#runs"), false);
    // The page shows the server's refusal.
    await page.evaluate(() => document.querySelector("[name=quantity]").removeAttribute("max"));
    await page.fill("[name=quantity]", "20000");
    await page.click("#start button");
    await page.waitForSelector("#start-error:text('the quantity is above 10000')");
    await page.close();
  });

  test("a page loses nothing and shows nothing twice when its connection is cut", async () => {
    const random = seeded(7);
    // The page begins with a snapshot, so its stream may have little left. The first bytes are always there to be cut.
    const cuts = [0, 1, 2, 1, ...Array.from({ length: 8 }, () => Math.floor(random() * 900))];
    const proxy = await cuttingProxy(demo.url, { cuts, retry: 20 });
    const id = await startRun(demo.url, { params: SHOWN });
    const page = await visit(`${proxy.url}/${id}`);
    await page.waitForSelector("workflow-run .row .answer:visible");
    await answer(demo.url, id);
    await page.waitForSelector('workflow-run[data-state="completed"][data-connection="ended"]');
    const run = await view(page);
    assert.equal(run.taskCount, 8);
    assert.ok([...run.tasks, ...run.tasks[2].tasks].every(({ state }) => state === "completed"));
    const streams = proxy.requests.filter(({ url }) => /\/sse(\?|$)/.test(url));
    assert.ok(streams.length > 4, `${streams.length} requests`);
    assert.ok(streams.every(({ status }) => [200, 204].includes(status)));
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

  /** The stream reconnected again and again, and once more at the end, to get the end. */
  function assertCutAndEnded(requests) {
    assert.ok(requests.length > 4, `${requests.length} requests`);
    assert.deepEqual(requests.map(({ status }) => status), [...Array(requests.length - 1).fill(200), 204]);
  }

  /** The run as the page knows it, as a snapshot has it. */
  const view = (page) => page.evaluate(() => document.querySelector("workflow-run").view);

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
