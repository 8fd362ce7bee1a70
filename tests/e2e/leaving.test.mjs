// Viewers who leave, where nothing is written: by the runtime itself, without wrangler's proxies, which hide
// that a client has gone.
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { Miniflare } from "miniflare";
import { unstable_getMiniflareWorkerOptions } from "wrangler";
import { at as file } from "../../scripts/lib/run.mjs";
import { at, start } from "./lib/script.mjs";
import { copyWorker } from "./lib/wrangler.mjs";

const stops = [];
after(() => Promise.all(stops.map((stop) => stop())));

async function serve(vars = {}) {
  const folder = copyWorker(file("tests/worker"));
  const { workerOptions } = unstable_getMiniflareWorkerOptions(path.join(folder, "wrangler.toml"));
  const server = new Miniflare({
    ...workerOptions,
    bindings: { ...workerOptions.bindings, ...vars },
    modules: true,
    modulesRoot: path.join(folder, "build"),
    modulesRules: [{ type: "CompiledWasm", include: ["**/*.wasm"] }],
    scriptPath: path.join(folder, "build/index.js"),
    host: "127.0.0.1",
    port: 0,
  });
  stops.push(async () => {
    await server.dispose();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });
  const url = await server.ready;
  return { url: url.origin };
}

const OPS = [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }];
const rpc = async (run, method) => (await fetch(`${run.url}/rpc/${method}`, { method: "POST" })).text();

/** Waits until this holds, and returns how long that took. */
async function time(holds) {
  const start = Date.now();
  while (!(await holds())) {
    assert.ok(Date.now() - start < 5_000, "not noticed");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return Date.now() - start;
}

for (const transport of ["direct", "hibernating"]) {
  test(`a viewer who leaves is noticed at once (${transport})`, async () => {
    const server = await serve({ TRANSPORT: transport });
    const run = await start(server, OPS, { workflow: transport === "direct" ? "crowd" : "fragile" });
    const viewers = [await run.open(), await run.open()];
    for (const viewer of viewers) await viewer.until(at("started", "w-1.waitForEvent"));
    const watching = async () => {
      const found = JSON.parse(await rpc(run, transport === "direct" ? "watched" : "sockets"));
      return transport === "direct" ? found[0] : found;
    };
    assert.equal(await watching(), 2);
    viewers[0].close();
    // Not at the next heartbeat.
    assert.ok((await time(async () => (await watching()) === 1)) < 3_000);
    await run.event("go");
    await viewers[1].rest();
  });
}

test("strangers who come and go make no relays", async () => {
  const server = await serve({ TRANSPORT: "direct" });
  const run = await start(server, OPS, { workflow: "crowd" });
  for (let stranger = 0; stranger < 40; stranger += 1) {
    const viewer = await run.open();
    await viewer.untilComment();
    viewer.close();
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  const places = await Promise.all([1, 2, 3, 4].map(async (place) => (await fetch(`${server.url}/crowd/${run.id}~${place}/rpc/answers`, { method: "POST" })).text()));
  assert.deepEqual(places, Array(4).fill("Ok([])"));
  await run.event("go");
});
