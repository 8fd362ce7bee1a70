// npm run deploy, as far as it goes without an account.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";

import { bundleSize, checkSize } from "../../scripts/lib/deploy.mjs";
import { at } from "../../scripts/lib/run.mjs";

// Nobody is logged in there.
const home = mkdtempSync(path.join(tmpdir(), "ssetarget-deploy-"));
after(() => rmSync(home, { recursive: true, force: true }));

function deploy(...args) {
  const env = { ...process.env, XDG_CONFIG_HOME: home, HOME: home, CARGO_HOME: process.env.CARGO_HOME ?? path.join(process.env.HOME, ".cargo"), RUSTUP_HOME: process.env.RUSTUP_HOME ?? path.join(process.env.HOME, ".rustup") };
  for (const name of Object.keys(env)) if (/^(CLOUDFLARE|CF)_/.test(name)) delete env[name];
  return spawnSync(process.execPath, [at("scripts/deploy.mjs"), ...args], { encoding: "utf8", env, timeout: 600_000 });
}

test("a dry run bundles the Worker with its bindings, and says how large it is", () => {
  const { status, stdout, stderr } = deploy("--dry-run");
  assert.equal(status, 0, stderr);
  assert.match(stdout, /env\.WORKFLOW_EVENTS \(WorkflowEvents\) +Durable Object/);
  assert.match(stdout, /env\.ORDER \(OrderWorkflow\) +Workflow/);
  assert.match(stdout, /^the demo Worker is \d+ KB after gzip; it may be \d+ KB\.$/m);
});

test("without an account it says what to do, and uploads nothing", () => {
  const { status, stdout, stderr } = deploy();
  assert.equal(status, 1);
  assert.match(stderr, /you are not logged in to Cloudflare\. Run `npx wrangler login`/);
  assert.doesNotMatch(stdout, /Uploaded/);
});

test("a Worker that has become too large is refused", () => {
  const bytes = bundleSize("Total Upload: 1326.13 KiB / gzip: 471.50 KiB\n");
  assert.equal(bytes, 482_816);
  assert.equal(bundleSize("Total Upload: 5.00 MiB / gzip: 1.50 MiB\n"), 1_572_864);
  checkSize(bytes, bytes);
  assert.throws(() => checkSize(bytes, bytes - 1), /is 483 KB after gzip; it may be 483 KB/);
  assert.throws(() => bundleSize("nothing"), /did not say/);
});
