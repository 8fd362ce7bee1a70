// Viewers who leave while nothing is written. The runtime runs without wrangler's proxies, which hide that a client
// has gone.
import assert from "node:assert/strict";
import { on } from "node:events";
import { readFileSync, readdirSync, rmSync } from "node:fs";
import { connect } from "node:net";
import path from "node:path";
import { after, test } from "node:test";
import { Miniflare, convertV4MiniflareOptions } from "miniflare";
import { unstable_getMiniflareWorkerOptions } from "wrangler";
import { at as file } from "../../scripts/lib/run.mjs";
import { at, start } from "./lib/script.mjs";
import { copyWorker } from "./lib/wrangler.mjs";

const stops = [];
after(() => Promise.all(stops.map((stop) => stop())));

async function serve(vars = {}) {
  const folder = copyWorker(file("tests/worker"));
  const { workerOptions } = unstable_getMiniflareWorkerOptions(path.join(folder, "wrangler.toml"));
  delete workerOptions.modulesRules;
  const module = (name, type) => ({ type, path: path.join(folder, "build", name), contents: readFileSync(path.join(folder, "build", name)) });
  const files = readdirSync(path.join(folder, "build"));
  const wasm = files.filter((name) => name.endsWith(".wasm"));
  const options = convertV4MiniflareOptions({
    ...workerOptions,
    bindings: { ...workerOptions.bindings, ...vars },
    modules: [module("index.js", "ESModule"), ...wasm.map((name) => module(name, "CompiledWasm"))],
    modulesRoot: path.join(folder, "build"),
    host: "127.0.0.1",
    port: 0,
  });
  const server = new Miniflare(options);
  stops.push(async () => {
    await server.dispose();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });
  const url = await server.ready;
  return { url: url.origin };
}

const OPS = [{ do: { name: "a" } }, { wait: { name: "w", type: "go" } }];
const rpc = async (run, method) => (await fetch(`${run.url}/rpc/${method}`, { method: "POST" })).text();

/**
 * Opens a stream and reads up to this text. Resolves to a function that resets the connection. A runtime can notice a
 * reset without a write, like the end of an HTTP/2 stream.
 */
async function open(url, until) {
  const { hostname, port, pathname } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.write(`GET ${pathname} HTTP/1.1\r\nHost: ${hostname}\r\n\r\n`);
  let read = "";
  for await (const [chunk] of on(socket, "data")) {
    read += chunk;
    if (read.includes(until)) return () => socket.resetAndDestroy();
  }
  throw new Error(read);
}

/** Waits until this holds, and returns how long that took. */
async function time(holds) {
  const start = Date.now();
  while (!(await holds())) {
    assert.ok(Date.now() - start < 60_000, "not noticed");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return Date.now() - start;
}

for (const transport of ["direct", "hibernating"]) {
  test(`a viewer who leaves is noticed at once (${transport})`, async () => {
    const server = await serve({ TRANSPORT: transport });
    const run = await start(server, OPS, { workflow: transport === "direct" ? "crowd" : "fragile" });
    const watching = async () => {
      const found = JSON.parse(await rpc(run, transport === "direct" ? "watched" : "sockets"));
      return transport === "direct" ? found[0] : found;
    };
    const reset = await open(run.sse, "waitForEvent");
    const kept = await run.open();
    await kept.until(at("started", "w-1.waitForEvent"));
    assert.equal(await watching(), 2);
    reset();
    // The runtime notices before the next heartbeat.
    assert.ok((await time(async () => (await watching()) === 1)) < 12_000);
    await run.event("go");
    await kept.rest();
  });
}

test("viewers who come and go cause no relays", async () => {
  const server = await serve({ TRANSPORT: "direct" });
  const run = await start(server, OPS, { workflow: "crowd" });
  for (let stranger = 0; stranger < 40; stranger += 1) {
    const reset = await open(run.sse, ":\n");
    reset();
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  const answers = (place) => fetch(`${server.url}/crowd/${run.id}~${place}/rpc/answers`, { method: "POST" });
  const asked = await Promise.all([1, 2, 3, 4].map(async (place) => (await answers(place)).text()));
  assert.deepEqual(asked, Array(4).fill("Ok([])"));
  await run.event("go");
});
