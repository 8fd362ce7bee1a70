// node scripts/page-pictures.mjs [folder]: the pictures of the page in docs/, drawn in a real browser from a fixed
// run.
import { mkdirSync, statSync } from "node:fs";
import path from "node:path";
import { launch } from "../tests/e2e/lib/browser.mjs";
import { servePage } from "../tests/e2e/lib/page-server.mjs";
import { order } from "../tests/e2e/lib/page-runs.mjs";

const folder = process.argv[2] ?? "docs/pictures";
const MOST_BYTES = 150_000;
const WIDE = { width: 1240, height: 640 };
const PHONE = { width: 390, height: 780 };

const PICTURES = [
  { name: "page-live-light", until: "live", viewport: WIDE },
  { name: "page-live-dark", until: "live", viewport: WIDE, colorScheme: "dark" },
  { name: "page-details-light", until: "live", viewport: WIDE, task: "charge card-1" },
  { name: "page-waiting-dark", until: "waiting", viewport: WIDE, colorScheme: "dark", answers: true },
  { name: "page-failed-light", until: "failed", viewport: WIDE },
  { name: "page-phone-light", until: "waiting", viewport: PHONE },
  { name: "page-phone-dark", until: "done", viewport: PHONE, colorScheme: "dark" },
];

mkdirSync(folder, { recursive: true });
const server = await servePage();
const browser = await launch();
try {
  for (const { name, until, task, answers, ...options } of PICTURES) {
    const run = server.run("order-8153", { answers: true });
    for (const [type, data] of order(Date.now(), { until })) run.add(type, data);
    const context = await browser.newContext({ ...options, deviceScaleFactor: options.viewport === PHONE ? 1.5 : 1, locale: "en-GB", timezoneId: "Europe/Amsterdam" });
    const page = await context.newPage();
    await page.goto(`${server.url}/order-8153${task ? `#task=${encodeURIComponent(task)}` : ""}`);
    await page.waitForFunction(() => document.querySelector("workflow-run")?.view.tasks.length > 3);
    if (answers) await page.click("workflow-run .row .answer:visible");
    await page.waitForTimeout(600);
    const file = path.join(folder, `${name}.png`);
    await page.screenshot({ path: file, animations: "disabled" });
    const { size } = statSync(file);
    console.log(`${file}: ${Math.round(size / 1024)} KiB`);
    if (size > MOST_BYTES) process.exitCode = 1;
    await context.close();
    run.cut();
  }
} finally {
  await browser.close();
  await server.kill();
}
