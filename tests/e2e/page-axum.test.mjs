// <workflow-run> on a log of spans: those of the axum example, in a page of the example's origin.
import assert from "node:assert/strict";
import { test } from "node:test";
import { serveAxum } from "./lib/axum.mjs";
import { drawn, launch, skip } from "./lib/browser.mjs";
import { servePage } from "./lib/page-server.mjs";

test("spans of any server are a run too", { skip }, async () => {
  const axum = await serveAxum();
  const files = await servePage();
  const browser = await launch();
  try {
    const started = await fetch(axum.url, { method: "POST", redirect: "manual" });
    const stream = new URL(started.headers.get("location"), axum.url);
    // The page's policy does not allow this element.
    const page = await browser.newPage({ bypassCSP: true });
    await page.goto(new URL(stream.pathname.replace(/\/sse$/, ""), axum.url).href);
    await page.evaluate(
      async ([module, src]) => {
        await import(module);
        const element = document.createElement("workflow-run");
        element.setAttribute("src", src);
        document.body.replaceChildren(element);
      },
      [`${files.url}/ssetarget/workflow-run.js`, stream.pathname],
    );
    await page.waitForFunction(() => document.querySelector("workflow-run").view.taskCount > 0);
    await page.waitForSelector("workflow-run .row[data-task]:visible");
    await page.waitForSelector('workflow-run[data-connection="ended"]');
    const { tasks, cursor } = await page.evaluate(() => document.querySelector("workflow-run").view);
    assert.ok(tasks.length > 0 && cursor > 2);
    const left = [...tasks];
    for (const task of left) {
      assert.ok(["completed", "failed", "stopped"].includes(task.state), `${task.taskId} is ${task.state}`);
      left.push(...(task.tasks ?? []));
    }
    await drawn(page);
    assert.match(await page.textContent("workflow-run .pill"), /^(Completed|Failed)$/);
    await page.close();
  } finally {
    await browser.close();
    await files.kill();
    await axum.stop();
  }
});
