// Debian's chromium, driven by playwright-core.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chromium } from "playwright-core";

const executablePath = process.env.CHROMIUM ?? spawnSync("which", ["chromium"], { encoding: "utf8" }).stdout.trim();
const missing = "there is no chromium: apt-get install chromium, or set CHROMIUM to its path";

/** The reason to skip tests in a browser, or false. CI never skips them. */
export const skip = executablePath ? false : missing;
if (skip) {
  if (process.env.CI === "true") throw new Error(missing);
  console.log(`\n!!! The tests in a browser are SKIPPED: ${missing}\n`);
}

export function launch() {
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
  return chromium.launch({ executablePath, args });
}

/** Opens a page. It records errors, for `isClean`, and the states of its tasks, in `window.seen`. */
export async function visit(browser, url, options = {}) {
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
  await page.goto(url, { waitUntil: "commit" });
  return page;
}
