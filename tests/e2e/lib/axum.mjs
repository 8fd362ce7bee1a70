// Runs examples/axum and a Redis for it, each on a free port.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { at } from "../../../scripts/lib/run.mjs";

const target = process.env.CARGO_TARGET_DIR ?? at("target");
export const EXAMPLE = path.join(target, "debug/ssetarget-axum-example");

/** Starts the example. Resolves to `{ url, log, stop, kill }`; `stop` asks it to end and resolves to its exit code. */
export async function serveAxum(env = {}) {
  const child = start(EXAMPLE, [], { PORT: "0", ...env });
  const url = (await printed(child, /Listening on (http:\S+)/))[1];
  return {
    url,
    log: () => child.log,
    async stop() {
      child.kill("SIGTERM");
      return child.ended;
    },
    kill() {
      child.kill("SIGKILL");
      return child.ended;
    },
  };
}

const missing = "there is no redis-server: apt-get install redis-server";

/** Why tests with a Redis are skipped, or false. In CI they never are. */
export const skipRedis = spawnSync("which", ["redis-server"]).status === 0 ? false : missing;
if (skipRedis) {
  if (process.env.CI === "true") throw new Error(missing);
  console.log(`\n!!! The tests with a Redis are SKIPPED: ${missing}\n`);
}

/** Starts a Redis that keeps nothing on disk. Resolves to `{ url, kill }`. */
export async function serveRedis() {
  const port = await freePort();
  const dir = mkdtempSync(path.join(tmpdir(), "ssetarget-redis-"));
  const child = start("redis-server", ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir]);
  await printed(child, /Ready to accept connections/);
  return {
    url: `redis://127.0.0.1:${port}`,
    async kill() {
      child.kill("SIGKILL");
      await child.ended;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

function start(program, args, env = {}) {
  const child = spawn(program, args.map(String), { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "inherit"] });
  running.add(child);
  child.ended = new Promise((resolve) => child.once("close", resolve)).finally(() => running.delete(child));
  return child;
}

// A test file that is cut short must leave no server behind.
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

function printed(child, pattern) {
  child.log = "";
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.ended.then((code) => reject(new Error(`${child.spawnfile} ended with ${code}:\n${child.log}`)));
    child.stdout.setEncoding("utf8").on("data", (text) => {
      child.log += text;
      const match = child.log.match(pattern);
      if (match) resolve(match);
    });
  });
}

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}
