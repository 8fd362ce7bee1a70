// The test Worker in wrangler's own test harness, which evicts objects and looks into their storage.
import { rmSync } from "node:fs";
import path from "node:path";
import { createTestHarness } from "wrangler";
import { at } from "../../../scripts/lib/run.mjs";
import { copyWorker } from "./wrangler.mjs";

/** Starts it; resolves to what `script.mjs` takes for a server. */
export async function harness() {
  const folder = copyWorker(at("tests/worker"));
  const harness = createTestHarness({ root: folder, workers: [{ configPath: path.join(folder, "wrangler.toml") }] });
  const { url } = await harness.listen();
  const worker = harness.getWorker();
  return {
    url: url.origin,
    worker,
    log: () => harness.getLogs?.(),
    /** The object of this class and name loses its memory and its connections. */
    evict: (className, name) => worker.evictDurableObject(className, { name }),
    /** Runs SQL in the object. */
    async sql(className, name, statement, ...params) {
      const storage = await worker.getDurableObjectStorage(className, { name });
      return storage.exec(statement, ...params);
    },
    async stop() {
      await harness.close();
      rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
