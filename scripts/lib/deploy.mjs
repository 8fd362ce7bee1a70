// The upload that `wrangler deploy` would make of the demo Worker, and its limit.
import { rmSync } from "node:fs";

import { DEMO_GZIP_AT_MOST } from "../../bench/lib/scenarios.mjs";
import { Failure, at, run } from "./run.mjs";
import { modernNode, nodeEnv } from "./setup.mjs";

export const WRANGLER = at("node_modules/wrangler/bin/wrangler.js");

/** The environment of wrangler for a Worker that is built already. */
export const deployEnv = () => nodeEnv({ SSETARGET_PREBUILT: "1" });

/**
 * Bundles the built demo Worker as a deploy does, without an account. Resolves to its size in bytes after gzip, as
 * Cloudflare counts it. Wrangler checks the whole configuration on the way.
 */
export async function dryRun(args = []) {
  const folder = at("target/deploy");
  const { ok, output } = await run("wrangler deploy --dry-run", modernNode(), [WRANGLER, "deploy", "--dry-run", "--outdir", folder, ...args], { env: deployEnv() });
  rmSync(folder, { recursive: true, force: true });
  if (!ok) throw new Failure("wrangler would not deploy this.");
  return bundleSize(output);
}

/** The bytes after gzip that wrangler says it would upload. */
export function bundleSize(output) {
  const size = output.match(/^Total Upload: .* \/ gzip: (?<number>[\d.]+) (?<unit>KiB|MiB)$/m)?.groups;
  if (!size) throw new Failure("wrangler did not say how large the upload is.");
  return Math.round(Number(size.number) * (size.unit === "MiB" ? 2 ** 20 : 2 ** 10));
}

/** Refuses an upload that has become too large. */
export function checkSize(bytes, limit = DEMO_GZIP_AT_MOST) {
  const size = `the demo Worker is ${kilobytes(bytes)} after gzip; it may be ${kilobytes(limit)}`;
  if (bytes > limit) {
    throw new Failure(`${size}. Find what is linked that was not before, or raise DEMO_GZIP_AT_MOST in bench/lib/scenarios.mjs and say why.`);
  }
  console.log(`${size}.`);
}

const kilobytes = (bytes) => `${Math.ceil(bytes / 1000)} KB`;
