// <workflow-run> on the demo: one page follows a run whose server is killed in the middle.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launch, skip, visit } from "./lib/browser.mjs";
import { serve, startRun } from "./lib/demo.mjs";
import { relayTo } from "./lib/relay.mjs";

describe("the demo's page", { skip }, () => {
  let demo;
  let relay;
  let browser;
  before(async () => {
    demo = await serve();
    // A restarted server has another port; the browser needs a stable one.
    relay = await relayTo(() => demo.url);
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await relay?.close();
    await demo?.stop();
  });

  test("the server is killed and restarted while the run runs: the page goes on, and ends as the server says", async () => {
    const id = await startRun(demo.url, { params: { workMs: 500 } });
    const page = await visit(browser, `${relay.url}/${id}`);
    await page.waitForSelector('workflow-run .row[data-task="charge card-1"]:visible');
    await page.evaluate(() => {
      window.connections = [];
      document.addEventListener("run-state", ({ detail }) => window.connections.push(detail.connection));
    });
    await demo.restart();
    relay.cut();
    // An event of any type starts an instance again whose engine was killed.
    const woken = await fetch(`${demo.url}/${id}/event`, { method: "POST", headers: { "content-type": "application/json" }, body: '{"type":"wake-up"}' });
    assert.ok(woken.ok, await woken.text());
    await page.waitForSelector('workflow-run .row[data-task="wait for approval-1.waitForEvent"] .answer:visible');
    await page.click('workflow-run .row[data-task="wait for approval-1.waitForEvent"] .answer');
    await page.fill("#answer-payload", '{"by": "Ada"}');
    await page.press("#answer-payload", "Control+Enter");
    await page.waitForSelector('workflow-run[data-state="completed"][data-connection="ended"]');
    assert.ok((await page.evaluate(() => window.connections)).includes("reconnecting"));

    const view = await page.evaluate(() => document.querySelector("workflow-run").view);
    const answer = await fetch(`${demo.url}/${id}`, { headers: { accept: "application/json" } });
    assert.deepEqual(view, await answer.json());
    await page.close();

    const late = await visit(browser, `${relay.url}/${id}#task=${encodeURIComponent("pack parcel-1")}`, { viewport: { width: 360, height: 740 } });
    await late.waitForSelector("workflow-run .panel:visible >> text=pack parcel");
    await late.waitForSelector('workflow-run[data-connection="ended"]');
    assert.deepEqual(await late.evaluate(() => document.querySelector("workflow-run").view), view);
    late.isClean();
    await late.close();
  });
});
