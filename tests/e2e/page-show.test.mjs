// Two browsers on the live table of the demo while 200 runs start, fail, wait and end, one of them cut off again and again: both
// end with what the server lists, and never show a run twice. With PICTURES=<folder> it draws what they show.
import assert from "node:assert/strict";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { drawn, launch, skip, visit } from "./lib/browser.mjs";
import { QUICK, answer, serve, startRun } from "./lib/demo.mjs";
import { relayTo } from "./lib/relay.mjs";

const RUNS = 200;
/** Of four runs, one fails at once; of the other three, one is left waiting. */
const FAILS = 50;
const LEFT = 50;

describe("the table while 200 runs come and go", { skip }, () => {
  let demo;
  let relay;
  const browsers = [];
  before(async () => {
    demo = await serve();
    relay = await relayTo(() => demo.url);
    for (let number = 0; number < 2; number += 1) browsers.push(await launch());
  });
  after(async () => {
    for (const browser of browsers) await browser.close();
    await relay?.close();
    await demo?.stop();
  });

  const list = async () => {
    const response = await fetch(`${demo.url}/runs?limit=500`);
    return (await response.json()).runs;
  };
  const counts = (runs) => runs.reduce((all, { state }) => ({ ...all, [state]: (all[state] ?? 0) + 1 }), {});
  /** Calls with each of these, some at a time. */
  const each = async (items, call) => {
    const left = [...items.entries()];
    await Promise.all(Array.from({ length: 12 }, async () => {
      for (let next; (next = left.shift()); ) await call(next[1], next[0]);
    }));
  };
  const until = async (what, isSo) => {
    for (let tries = 0; tries < 600; tries += 1) {
      if (await isSo()) return;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    assert.fail(`${what}: ${JSON.stringify(counts(await list()))}`);
  };

  test("both tables are what the server lists, and no row is lost or shown twice", { timeout: 280_000 }, async () => {
    const pages = [await visit(browsers[0], `${demo.url}/`, { viewport: { width: 1240, height: 760 } }), await visit(browsers[1], `${relay.url}/`, { viewport: { width: 1240, height: 760 }, colorScheme: "dark" })];
    for (const page of pages) {
      await page.waitForSelector('workflow-runs[data-connection="live"]');
      await page.evaluate(() => {
        window.table = document.querySelector("workflow-runs");
        window.doubles = [];
        window.reconnected = 0;
        window.shown = () => [...window.table.shadowRoot.querySelectorAll(".row[data-run]")].filter((row) => row.offsetParent !== null && row.style.visibility !== "hidden").sort((a, b) => a.ariaRowIndex - b.ariaRowIndex).map((row) => row.dataset.run);
        setInterval(() => {
          const all = window.table.runs.map(({ id }) => id);
          for (const ids of [all, window.shown()]) if (new Set(ids).size !== ids.length) window.doubles.push(ids.filter((id, at) => ids.indexOf(id) !== at));
        }, 100);
        new MutationObserver(() => (window.reconnected += window.table.dataset.connection === "reconnecting" ? 1 : 0)).observe(window.table, { attributeFilter: ["data-connection"] });
      });
    }
    const picture = async (name) => {
      if (!process.env.PICTURES) return;
      for (const [number, page] of pages.entries()) await page.screenshot({ path: path.join(process.env.PICTURES, `show-${name}-${number}.png`) });
    };
    const cutting = setInterval(() => relay.cut(), 1500);
    const ids = [];
    await each(Array.from({ length: RUNS }), async (_, number) => {
      const params = number % 4 === 0 ? { ...QUICK, quantity: 0 } : QUICK;
      ids[number] = await startRun(demo.url, { params });
    });
    await picture("start");
    const waits = ids.filter((_, number) => number % 4 !== 0);
    await until("all wait or have failed", async () => {
      const { waiting = 0, failed = 0 } = counts(await list());
      return waiting === RUNS - FAILS && failed === FAILS;
    });
    await picture("waiting");
    const answered = waits.slice(LEFT);
    await each(answered, (id) => answer(demo.url, id));
    await until("what was answered has ended", async () => counts(await list()).completed === answered.length);
    clearInterval(cutting);
    const final = await list();
    assert.deepEqual(counts(final), { waiting: LEFT, failed: FAILS, completed: answered.length });
    assert.deepEqual(final.map(({ id }) => id).sort(), [...ids].sort());
    const listed = final.map(({ id, state, task, error }) => ({ id, state, task: task ?? null, error: error ?? null }));
    for (const [number, page] of pages.entries()) {
      const table = () => page.evaluate(() => window.table.runs.map(({ id, state, task, error }) => ({ id, state, task, error })));
      await until(`table ${number} has caught up`, async () => JSON.stringify(await table()) === JSON.stringify(listed));
      await drawn(page);
      assert.deepEqual(await page.evaluate(() => window.doubles), []);
      assert.equal(await page.evaluate(() => Number(window.table.shadowRoot.querySelector("[role=grid]").getAttribute("aria-rowcount"))), RUNS + 1);
      const shown = await page.evaluate(() => window.shown());
      assert.ok(shown.length > 10, `${shown.length} rows`);
      assert.deepEqual(shown, listed.slice(0, shown.length).map(({ id }) => id));
    }
    await picture("end");
    assert.equal(await pages[0].evaluate(() => window.reconnected), 0);
    assert.ok((await pages[1].evaluate(() => window.reconnected)) > 0, "the second one was cut off");
    pages[0].isClean();
  });
});
