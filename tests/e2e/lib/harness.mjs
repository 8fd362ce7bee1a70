// The test Worker in wrangler's own test harness, which evicts objects and looks into their storage.
import { appendFileSync, cpSync, rmSync } from "node:fs";
import path from "node:path";
import { createTestHarness } from "wrangler";
import { at } from "../../../scripts/lib/run.mjs";
import { copyWorker } from "./wrangler.mjs";

/**
 * Starts the Worker. Resolves to a server for `script.mjs`. `front` is the folder of a Worker in JavaScript, which
 * gets the requests instead. `config` is appended to the test Worker's wrangler.toml.
 */
export async function harness({ front, config = "" } = {}) {
  const folder = copyWorker(at("tests/worker"));
  // The suite of viewers runs once for each transport.
  const { TRANSPORT } = process.env;
  const vars = TRANSPORT ? `\n[vars]\nTRANSPORT = "${TRANSPORT}"\n` : "";
  appendFileSync(path.join(folder, "wrangler.toml"), config + vars);
  const folders = [folder];
  if (front) {
    folders.unshift(path.join(folder, "front"));
    cpSync(at(front), folders[0], { recursive: true });
  }
  const workers = folders.map((each) => ({ configPath: path.join(each, "wrangler.toml") }));
  const harness = createTestHarness({ root: folder, workers });
  const { url } = await harness.listen();
  const worker = harness.getWorker("ssetarget-test");
  return {
    url: url.origin,
    worker,
    log: () => harness.getLogs?.(),
    /** Evicts the object: it loses its memory and its connections. */
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
