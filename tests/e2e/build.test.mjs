// The output of worker-build.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { at } from "../../scripts/lib/run.mjs";

for (const worker of ["examples/worker", "tests/worker"]) {
  // esbuild warns of it in each build, also in wrangler's.
  test(`${worker} imports no module twice`, async () => {
    const code = await readFile(at(worker, "build/index.js"), "utf8");
    const modules = [...code.matchAll(/"(\.\/snippets\/[^"]+)":/g)].map(([, module]) => module);
    assert.notEqual(modules.length, 0);
    assert.deepEqual(modules, [...new Set(modules)]);
  });
}
