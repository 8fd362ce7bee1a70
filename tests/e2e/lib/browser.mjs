// Debian's chromium, driven by playwright-core. With E2E_CPU_THROTTLE=6 every page has a sixth of the processor, and with
// E2E_SLOW_FRAMES=300 whatever pages draw comes 300 ms late: a test that reads too early fails then.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chromium } from "playwright-core";
import { PATIENCE_MS } from "./wait.mjs";

const executablePath = process.env.CHROMIUM ?? spawnSync("which", ["chromium"], { encoding: "utf8" }).stdout.trim();
const missing = "there is no chromium: apt-get install chromium, or set CHROMIUM to its path";

/** The reason to skip tests in a browser, or false. CI never skips them. */
export const skip = executablePath ? false : missing;
if (skip) {
  if (process.env.CI === "true") throw new Error(missing);
  console.log(`\n!!! The tests in a browser are SKIPPED: ${missing}\n`);
}

export async function launch() {
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
  const browser = await chromium.launch({ executablePath, args, timeout: PATIENCE_MS });
  const newContext = browser.newContext.bind(browser);
  // `newPage` of a browser calls it, too.
  browser.newContext = async (options) => slowedDown(await newContext(options));
  return browser;
}

/** A context whose waits have patience, and whose pages are as slow as the environment says. */
async function slowedDown(context) {
  context.setDefaultTimeout(PATIENCE_MS);
  const frames = Number(process.env.E2E_SLOW_FRAMES ?? 0);
  if (frames > 0) {
    await context.addInitScript((ms) => {
      const { requestAnimationFrame, setTimeout } = window;
      window.requestAnimationFrame = (call) => setTimeout(() => requestAnimationFrame(call), ms);
      window.cancelAnimationFrame = (timer) => clearTimeout(timer);
    }, frames);
  }
  const rate = Number(process.env.E2E_CPU_THROTTLE ?? 1);
  if (rate > 1) {
    const newPage = context.newPage.bind(context);
    context.newPage = async () => {
      const page = await newPage();
      const session = await context.newCDPSession(page);
      await session.send("Emulation.setCPUThrottlingRate", { rate });
      return page;
    };
  }
  return context;
}

/**
 * Waits until a page has drawn what it has received. Its elements draw after at most 100 ms, which are over before those of this
 * function, and in a frame that is requested before the frames of this function; scrolling and new sizes take a frame more each.
 */
export function drawn(page) {
  return page.evaluate(async () => {
    await new Promise((resolve) => setTimeout(resolve, 150));
    for (let frames = 0; frames < 5; frames += 1) await new Promise((resolve) => requestAnimationFrame(resolve));
  });
}

/**
 * Opens a page. It records errors, for `isClean`, and the states of its tasks, in `window.seen`. `init` are scripts that run before
 * those of the page, each a list of a function and its argument.
 */
export async function visit(browser, url, { init = [], ...options } = {}) {
  const page = await browser.newPage({ colorScheme: "light", ...options });
  const complaints = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => {
    if (new URL(request.url()).host !== new URL(url).host && !request.url().startsWith("data:")) complaints.push(`asked for ${request.url()}`);
  });
  page.isClean = () => assert.deepEqual(complaints, []);
  await page.addInitScript(() => {
    window.seen = {};
    document.addEventListener("securitypolicyviolation", ({ violatedDirective }) => console.error(`CSP: ${violatedDirective}`));
    const look = () => {
      for (const { dataset: { task, state } } of document.querySelectorAll("[data-task]")) {
        const states = (window.seen[task] ??= []);
        if (states.at(-1) !== state) states.push(state);
      }
    };
    new MutationObserver(look).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-state"] });
  });
  for (const [script, argument] of init) await page.addInitScript(script, argument);
  await page.goto(url, { waitUntil: "commit" });
  return page;
}

/** Clicks on what leads to `url`, and resolves when the page is there. A page with a stream never ends loading for some browsers. */
export async function follow(page, selector, url) {
  await Promise.all([page.waitForURL(url, { waitUntil: "commit" }), page.click(selector, { noWaitAfter: true })]);
}
