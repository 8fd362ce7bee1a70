// The suite for any SSE server, against ours. `npm run conformance` runs it for more servers, and writes
// docs/conformance.md.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, describe, test } from "node:test";
import { at } from "../../scripts/lib/run.mjs";
import { serveAxum } from "./lib/axum.mjs";
import { serve } from "./lib/demo.mjs";
import { NEEDS_REDIS, startRedis } from "./lib/redis.mjs";

const PROGRAM = `${process.env.CARGO_TARGET_DIR ?? at("target")}/debug/ssetarget-conformance`;
const ORIGIN = "https://listed.example";

const left = [];
after(() => Promise.all(left.map((end) => end())));

async function conforms(context, url, profile, fewest, { levels = ["must", "should", "extension"], options = [] } = {}) {
  const args = ["--json", "--patience", "30", "--profile", at("ssetarget-conformance/profiles", profile), ...options, url];
  const child = spawn(PROGRAM, args, { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text) => (output += text));
  const code = await new Promise((resolve, reject) => child.once("error", reject).once("close", resolve));
  const { cases } = JSON.parse(output);
  const failed = cases.filter(({ outcome }) => outcome === "failed");
  for (const { id, level, expected, got } of failed) context.diagnostic(`${level} ${id}: expected ${expected}; got ${got}`);
  assert.deepEqual(failed.filter(({ level }) => levels.includes(level)), []);
  assert.ok(code < 2);
  const passed = cases.filter(({ outcome }) => outcome === "passed").length;
  assert.ok(passed >= fewest, `only ${passed} cases were tried`);
}

// Everything of the suite on axum. On the demo, failures of cases that are not required are only printed.
describe("the suite for SSE servers", { concurrency: 1 }, () => {
  test("axum, SQLite", async (context) => {
    const server = await serveAxum({ ALLOWED_ORIGINS: ORIGIN });
    left.push(() => server.kill());
    await conforms(context, server.url, "axum.json", 121);
  });

  test("axum, memory", async (context) => {
    const server = await serveAxum({ ALLOWED_ORIGINS: ORIGIN, DATA_DIR: ":memory:" });
    left.push(() => server.kill());
    await conforms(context, server.url, "axum.json", 121);
  });

  test("axum, Redis", NEEDS_REDIS, async (context) => {
    const redis = await startRedis();
    left.push(() => redis.stop());
    const server = await serveAxum({ ALLOWED_ORIGINS: ORIGIN, REDIS_URL: redis.url });
    left.push(() => server.kill());
    await conforms(context, server.url, "axum.json", 121);
  });

  test("the demo Worker", async (context) => {
    const demo = await serve();
    left.push(() => demo.stop());
    await conforms(context, demo.url, "demo.json", 60, { levels: ["must"], options: ["--jobs", "4"] });
  });
});
