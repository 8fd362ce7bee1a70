// <workflow-run> in Firefox: a run is opened, its wait is answered with the mouse and the keyboard, a cut is survived, and it ends.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { skip, visit } from "./lib/firefox.mjs";
import { Script } from "./lib/page-runs.mjs";
import { servePage } from "./lib/page-server.mjs";

if (skip) console.log(`\nThe test in Firefox is skipped: ${skip}\n`);

describe("the page in Firefox", { skip }, () => {
  let server;
  before(async () => {
    server = await servePage();
  });
  after(() => server?.kill());

  test("a run is opened, answered, cut off, and ends", { timeout: 180_000 }, async () => {
    const s = new Script(Date.now()).begin();
    s.step("pack", 20).task("ask", { kind: "waitForEvent", eventType: "approval" });
    const run = server.run("o-1", { answers: true });
    for (const [type, data] of s.events) run.add(type, data);
    const asks = s.events.at(-1)[1];
    const page = await visit(`${server.url}/o-1`);
    try {
      console.log(`Firefox ${page.version}`);
      const element = "document.querySelector('workflow-run')";
      const inPage = (selector) => `${element}.shadowRoot.querySelector('${selector}')`;
      await page.until(`${element}?.connection === "live"`);
      await page.until(`${inPage(".row .answer:not([hidden])")} !== null`);
      await page.click(inPage(".row .answer:not([hidden])"));
      await page.until(`${element}.shadowRoot.activeElement?.id === "answer-payload"`);
      await page.type('{"by":"Ada"}');
      await page.click(inPage(".answer-form button[type=submit]"));
      await page.until(`${inPage(".form-outcome")}.textContent.startsWith("Sent")`);
      assert.deepEqual(run.answers, [{ type: "approval", payload: { by: "Ada" } }]);
      // Cut off, and something happens meanwhile.
      run.cut();
      const from = s.events.length;
      s.wait(10).done({ taskId: asks.taskId, step: "ask", kind: "waitForEvent", count: 1, parentId: asks.parentId }).step("ship", 30).end();
      for (const [type, data] of s.events.slice(from)) run.add(type, data);
      await page.until(`${element}.dataset.state === "completed" && ${element}.connection === "ended"`);
      const view = await page.evaluate(`${element}.view`);
      assert.deepEqual(view.tasks.map(({ taskId, state }) => [taskId, state]), [["pack-1", "completed"], [asks.taskId, "completed"], ["ship-1", "completed"]]);
      assert.equal(view.cursor, s.events.length);
    } finally {
      await page.close();
    }
  });
});
