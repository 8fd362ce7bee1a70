// The servers of the soak. Some are killed and started again; the others live as long as the soak, and are measured.
import { dataFolder, serveAxum } from "../axum.mjs";
import { freePort } from "../ports.mjs";
import { startRedis } from "../redis.mjs";
import { serve } from "../wrangler.mjs";
import { heapOf, runtimeOf, usage } from "./memory.mjs";
import { within } from "./pending.mjs";

/** Starts all of them. Resolves to `{ workers, axums, redis, measured, stop }`. */
export async function startPlaces() {
  const redis = await startRedis();
  const ports = [await freePort(), await freePort()];
  const [direct, hibernating, killed] = await Promise.all([
    worker({ TRANSPORT: "direct" }, ports[0]),
    worker({ TRANSPORT: "hibernating" }, ports[1]),
    worker({}),
  ]);
  const axums = {
    sqlite: new Axum({}),
    "sqlite, killed": new Axum({}),
    redis: new Axum({ REDIS_URL: redis.url }),
    "redis, killed": new Axum({ REDIS_URL: redis.url }),
  };
  await Promise.all(Object.values(axums).map((axum) => axum.start()));
  const workers = { direct, hibernating, killed };
  return {
    workers,
    axums,
    redis,
    /** What each of the servers that are left alive has now. */
    async measure(pending) {
      // On a machine with much else to do the inspector may be too slow: then there is one sample less.
      const heap = (name, server) => pending.step(`the heap of ${name}`, within(60_000, heapOf(server)).catch(() => ({})));
      const heaps = [await heap("Workers, direct", direct), await heap("Workers, hibernating", hibernating)];
      return {
        "Workers, direct": { ...(await pending.step("the process of Workers, direct", runtime(direct))), ...heaps[0] },
        "Workers, hibernating": { ...(await pending.step("the process of Workers, hibernating", runtime(hibernating))), ...heaps[1] },
        "axum, SQLite": usage(axums.sqlite.pid),
        "axum, Redis": usage(axums.redis.pid),
      };
    },
    async stop() {
      await Promise.all([...Object.values(workers).map((server) => server.stop()), ...Object.values(axums).map((axum) => axum.kill())]);
      await redis.stop();
    },
  };
}

/** wrangler starts the runtime again where it crashes: then it is another process. */
async function runtime(server) {
  await within(60_000, fetch(`${server.url}/gate/soak/open`).then((response) => response.text())); // has its storage open then
  const pid = runtimeOf(server.pid);
  return { pid, ...usage(pid) };
}

async function worker(vars, inspectorPort) {
  const server = await serve({ vars, inspectorPort, collects: inspectorPort !== undefined });
  // The first question makes it open its storage, by which its process is known.
  await fetch(`${server.url}/gate/soak/open`).then((response) => response.text());
  return server;
}

/** An axum server that can be killed and started again, over the same folder of logs. */
class Axum {
  #env;
  #server;

  constructor(env) {
    this.#env = { DATA_DIR: dataFolder(), ...env };
  }

  async start() {
    this.#server = await serveAxum(this.#env);
  }

  get url() {
    return this.#server.url;
  }

  get pid() {
    return this.#server.pid;
  }

  kill() {
    return this.#server.kill();
  }
}
