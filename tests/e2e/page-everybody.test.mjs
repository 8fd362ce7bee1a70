// Accessibility of <workflow-run>: axe, contrast measured in the live document, forced colours, motion, phones and
// zoom.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { drawn, launch, skip, visit as visitIn } from "./lib/browser.mjs";
import { order } from "./lib/page-runs.mjs";
import { servePage } from "./lib/page-server.mjs";
import { becomes } from "./lib/wait.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WIDE = { width: 1240, height: 760 };
const PHONE = { width: 360, height: 740 };

describe("the page for everybody", { skip }, () => {
  let server;
  let browser;
  before(async () => {
    server = await servePage();
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await server?.kill();
  });

  /** Opens the page of an order in one of its states. `state` may also be one of the connection. */
  async function show(state, options) {
    const id = `${state}-run`;
    let run = null;
    if (state !== "unknown") {
      run = server.run(id, { answers: true, session: state === "refused", token: "x" });
      for (const [type, data] of state === "empty" ? [] : order(Date.now(), { until: ["live", "waiting", "failed", "done"].includes(state) ? state : "live" })) run.add(type, data);
    }
    const page = await visitIn(browser, `${server.url}/${id}`, options);
    await page.waitForFunction((expected) => {
      const element = document.querySelector("workflow-run");
      const connection = element?.getAttribute("data-connection");
      const reached = ["unknown", "refused"].includes(expected) ? connection === expected : ["live", "ended"].includes(connection);
      return reached && element.shadowRoot.querySelector(".page:not([hidden])");
    }, state);
    // All events, not just enough of them for the first rows.
    if (run !== null && state !== "refused") await becomes(() => page.evaluate(() => document.querySelector("workflow-run").view.cursor ?? 0), run.events.at(-1)?.id ?? 0, "the last event");
    await drawn(page);
    return page;
  }

  for (const colorScheme of ["light", "dark"]) {
    for (const viewport of [WIDE, PHONE]) {
      test(`axe finds nothing, and contrast is enough: ${colorScheme}, ${viewport.width} pixels wide`, async () => {
        for (const state of ["live", "waiting", "failed", "done", "empty", "unknown", "refused"]) {
          const page = await show(state, { colorScheme, viewport });
          // This check comes before axe, which adds a style that the policy forbids.
          if (!["unknown", "refused"].includes(state)) page.isClean();
          await clean(page, `${state}, ${colorScheme}`);
          if (state === "waiting") {
            await page.click("workflow-run .row .answer:visible");
            await page.fill("#answer-payload", "{");
            await page.press("#answer-payload", "Control+Enter");
            await clean(page, "the form");
          }
          if (state === "failed") {
            await page.click('workflow-run [data-task="hand over-1"]');
            await clean(page, "the panel");
            await page.click("workflow-run button:text-is('Events')");
            await page.click("workflow-run .row.event >> nth=2");
            await clean(page, "the events");
          }
          if (state === "live") {
            await page.click("workflow-run button:text('Errors only')");
            await page.fill("workflow-run .filter", "x");
            await clean(page, "filtered");
          }
          await page.close();
        }
      });
    }
  }

  test("forced colours: bars, progress, and pressed or chosen controls are visible", async () => {
    for (const colorScheme of ["light", "dark"]) {
      const page = await show("live", { colorScheme, viewport: WIDE, forcedColors: "active" });
      await page.click('workflow-run [data-task="charge card-1"]');
      await clean(page, `forced, ${colorScheme}`);
      const { fill, pressed, plain } = await page.evaluate(() => {
        const root = document.querySelector("workflow-run").shadowRoot;
        const style = (selector) => getComputedStyle(root.querySelector(selector));
        const fill = style(".fill:not([hidden])");
        return { fill: { height: fill.height, width: fill.width, color: fill.backgroundColor, around: getComputedStyle(root.host).backgroundColor }, pressed: style(".tabs [aria-pressed=true]").borderTopWidth, plain: style(".tabs [aria-pressed=false]").borderTopWidth };
      });
      assert.notEqual(fill.color, fill.around);
      assert.ok(parseFloat(fill.height) >= 3 && parseFloat(fill.width) > 0);
      assert.notEqual(pressed, plain);
      await page.close();
    }
  });

  test("colour is never alone: each state has a shape and a word of its own", async () => {
    const page = await show("live", { viewport: WIDE });
    const seen = await page.evaluate(() => {
      const rows = [...document.querySelector("workflow-run").shadowRoot.querySelectorAll(".row[data-task]:not([hidden])")];
      return rows.map((element) => [element.dataset.look, element.querySelector(".status").textContent, element.querySelector(".name > .icon path").getAttribute("d")]);
    });
    const byLook = new Map(seen.map(([look, ...rest]) => [look, rest]));
    assert.deepEqual([...byLook.keys()].sort(), ["completed", "retrying", "running"]);
    for (const position of [0, 1]) {
      const values = [...byLook.values()].map((rest) => rest[position]);
      assert.ok(values.every(Boolean));
      assert.equal(new Set(values).size, values.length);
    }
    await page.close();
  });

  test("nothing moves for users who prefer reduced motion", async () => {
    const moving = (page) => page.evaluate(() => document.querySelector("workflow-run").shadowRoot.getAnimations({ subtree: true }).length + [...document.querySelector("workflow-run").shadowRoot.querySelectorAll("*")].flatMap((node) => node.getAnimations()).length);
    const page = await show("live", { viewport: WIDE, reducedMotion: "reduce" });
    assert.equal(await moving(page), 0);
    await page.close();
    const lively = await show("live", { viewport: WIDE, reducedMotion: "no-preference" });
    assert.ok((await moving(lively)) > 0);
    await lively.close();
  });

  test("a phone, 200 % zoom and large letters: nothing is cut off or on top of something else", async () => {
    for (const [what, viewport, fontSize] of [["phone", PHONE, 16], ["narrowest", { width: 320, height: 560 }, 16], ["200 %", { width: 620, height: 380 }, 16], ["large letters", WIDE, 32]]) {
      for (const state of ["waiting", "failed"]) {
        const page = await show(state, { viewport });
        await page.evaluate((size) => (document.documentElement.style.fontSize = `${size}px`), fontSize);
        await page.setViewportSize({ ...viewport, height: viewport.height + 1 });
        await page.waitForFunction((height) => innerHeight === height, viewport.height + 1);
        await drawn(page);
        const wrong = await page.evaluate(() => {
          const root = document.querySelector("workflow-run").shadowRoot;
          const wrong = [];
          const width = document.documentElement.clientWidth;
          if (document.documentElement.scrollWidth > width) wrong.push(`the page is ${document.documentElement.scrollWidth} wide`);
          for (const node of root.querySelectorAll("button, input, .pill, .elapsed, .link, .row .status, .row .time")) {
            const box = node.getBoundingClientRect();
            if (box.width === 0) continue;
            if (box.left < 0 || box.right > width + 0.5) wrong.push(`${node.className || node.textContent} reaches from ${box.left} to ${box.right}`);
            if (node.scrollWidth > node.clientWidth + 2 && !node.matches("input")) wrong.push(`${node.className} "${node.textContent}" is cut off`);
          }
          const rows = [...root.querySelectorAll(".row[data-task]:not([hidden])")];
          for (const element of rows) {
            const box = element.getBoundingClientRect();
            for (const part of element.querySelectorAll(".step, .status, .time, .bar:not([hidden])")) {
              const { top, bottom, height } = part.getBoundingClientRect();
              if (height > 0 && (top < box.top - 0.5 || bottom > box.bottom + 0.5)) wrong.push(`${part.className} of ${element.dataset.task} leaves its row`);
            }
            const name = element.querySelector(".step");
            if (name.clientWidth < 40 && name.scrollWidth > name.clientWidth) wrong.push(`${element.dataset.task} has ${name.clientWidth} for its name`);
          }
          if (root.querySelector(".scroller").clientHeight < 100) wrong.push("there is no room for rows");
          return wrong;
        });
        assert.deepEqual(wrong, [], `${what}, ${state}`);
        page.isClean();
        await page.close();
      }
    }
  });

  test("it is a treegrid whose rows say where they are", async () => {
    const page = await show("live", { viewport: WIDE });
    const { grid, rows, headers } = await page.evaluate(() => {
      const root = document.querySelector("workflow-run").shadowRoot;
      const rows = [...root.querySelectorAll(".row[data-task]:not([hidden])")].map((element) => ({ task: element.dataset.task, index: Number(element.ariaRowIndex), level: element.ariaLevel, expanded: element.ariaExpanded, pos: element.ariaPosInSet, size: element.ariaSetSize, role: element.getAttribute("role") }));
      return { grid: root.querySelector("[role=treegrid]").ariaRowCount, rows, headers: [...root.querySelectorAll("[role=columnheader]")].map((node) => node.ariaLabel ?? node.textContent) };
    });
    assert.deepEqual(headers, ["Task", "Status", "Time", "Timeline"]);
    assert.equal(Number(grid), rows.length + 1);
    assert.deepEqual(rows.map(({ index }) => index).sort((a, b) => a - b), rows.map((_, n) => n + 2));
    const of = (task) => rows.find((found) => found.task === task);
    assert.deepEqual(of("fulfil-1.group"), { task: "fulfil-1.group", index: 5, level: "1", expanded: "true", pos: "4", size: "7", role: "row" });
    assert.deepEqual(of("print label-1"), { task: "print label-1", index: 7, level: "2", expanded: null, pos: "2", size: "3", role: "row" });
    await page.close();
  });
});

/** Asserts that axe finds nothing and that all drawn parts contrast with their background. */
async function clean(page, what) {
  await drawn(page);
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"], rules: { "color-contrast": { enabled: true }, region: { enabled: true } } }));
  assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target, failureSummary }) => `${target.join(" ")} ${failureSummary}`).join(" | ")}`), [], what);
  const { texts, shapes, low } = await page.evaluate(measureContrast);
  assert.ok(texts > 2, `${what}: ${texts} texts`);
  assert.deepEqual(low, [], `${what}: of ${texts} texts and ${shapes} shapes`);
}

/** Runs in the page: measures the contrast of each text, bar, icon and border of a field with its background. */
function measureContrast() {
  const TEXT = 4.5;
  const SHAPE = 3;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, n) => value * a + below[n] * (1 - a));
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement ?? at.getRootNode().host ?? null) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), rgba("Canvas").slice(0, 3));
  };
  const luminance = (color) => {
    const [r, g, b] = color.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (light + 0.05) / (dark + 0.05);
  };
  const root = document.querySelector("workflow-run").shadowRoot;
  const visible = (node) => {
    const { width, height } = node.getBoundingClientRect();
    return width > 1 && height > 0 && getComputedStyle(node).visibility === "visible";
  };
  const low = [];
  let texts = 0;
  let shapes = 0;
  const check = (node, what, color, backs, least) => {
    for (const back of backs) {
      const found = ratio(over(rgba(color), back), back);
      if (found < least) low.push(`${what} of ${node.className?.baseVal ?? node.className} "${(node.textContent ?? "").slice(0, 30)}": ${found.toFixed(2)}`);
    }
  };
  // Folds are behind the rows: a pattern of two colours.
  const fold = root.querySelector(".back .mark[data-look=fold]:not([hidden])");
  const folds = fold ? [behind(fold)] : [];
  if (fold) folds.push(over(rgba(getComputedStyle(fold).backgroundImage.match(/(?:rgba?|color)\([^)]*\)/)?.[0] ?? "transparent"), folds[0]));
  for (const node of root.querySelectorAll("*")) {
    if (!visible(node) || node.closest(".unseen")) continue;
    const hasText = [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim() !== "");
    const style = getComputedStyle(node);
    const inBar = node.matches(".label[data-at=in]");
    const backs = inBar ? [...node.parentElement.querySelectorAll(".bar:not([hidden])")].map(behind) : [behind(node), ...(node.closest(".line, .axis-head") ? folds : [])];
    if (hasText) {
      texts += 1;
      check(node, "text", style.color, backs, TEXT);
    }
    if (node.matches("input, textarea")) {
      shapes += 1;
      check(node, "border", style.borderTopColor, [behind(node.parentElement)], SHAPE);
      check(node, "placeholder", getComputedStyle(node, "::placeholder").color, [behind(node)], TEXT);
    }
    if (node.matches("svg.icon")) {
      shapes += 1;
      check(node, "icon", style.stroke === "none" ? style.color : style.stroke, [behind(node.parentElement)], SHAPE);
    }
    if (node.matches(".bar")) {
      shapes += 1;
      check(node, "bar", style.borderTopColor, [behind(node.parentElement), ...folds], SHAPE);
    }
  }
  return { texts, shapes, low };
}
