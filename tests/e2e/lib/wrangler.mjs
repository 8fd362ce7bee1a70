// Serves the built Worker of a folder with `wrangler dev`, which can be killed and started again.
import { spawn } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { at } from "../../../scripts/lib/run.mjs";
import { modernNode, nodeEnv } from "../../../scripts/lib/setup.mjs";

/**
 * Copies the files of a Worker that wrangler needs into a temporary folder, so that a new build
 * does not disturb it. The caller deletes it.
 */
export function copyWorker(folder) {
  const copy = mkdtempSync(path.join(tmpdir(), "ssetarget-e2e-"));
  cpSync(path.join(folder, "build"), path.join(copy, "build"), { recursive: true });
  const config = readFileSync(path.join(folder, "wrangler.toml"), "utf8");
  writeFileSync(path.join(copy, "wrangler.toml"), config.replace(/^\[build\]\n(?:[^[\n].*\n|\n)*/m, ""));
  return copy;
}

/**
 * Starts `wrangler dev` on a free port. Resolves to a [`Server`] once it listens. `vars` are the
 * Worker's. `inspectorPort` is where developer tools find it, by default nowhere in particular. With `collects`, the Worker
 * can collect JavaScript's garbage: see `memory.mjs`.
 */
export async function serve({ folder = at("tests/worker"), vars = {}, inspectorPort = 0, collects = false } = {}) {
  const server = new Server(copyWorker(folder), vars, inspectorPort, collects);
  await server.start();
  return server;
}

/** After so many milliseconds a wrangler that does not say that it is ready has failed. */
const START_AT_MOST = 180_000;

class Server {
  #folder;
  #flags;
  #vars;
  #child;
  #log = "";

  constructor(folder, vars, inspectorPort, collects) {
    this.#folder = folder;
    this.#flags = collects ? { MINIFLARE_WORKERD_V8_FLAGS: "--expose-gc" } : {};
    this.inspectorPort = inspectorPort;
    this.#vars = Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}:${value}`]);
  }

  /** Everything that wrangler has printed, also before restarts. */
  get log() {
    return this.#log;
  }

  /** The process id of wrangler, and of the group of all that it starts. */
  get pid() {
    return this.#child.pid;
  }

  async start() {
    const args = ["dev", "--ip", "127.0.0.1", "--port", "0", "--inspector-port", `${this.inspectorPort}`, "--persist-to", path.join(this.#folder, "state"), ...this.#vars];
    const child = spawn(modernNode(), [at("node_modules/wrangler/bin/wrangler.js"), ...args], {
      cwd: this.#folder,
      env: nodeEnv({
        CI: "true",
        ...this.#flags,
        TMPDIR: this.#folder,
        WRANGLER_REGISTRY_PATH: path.join(this.#folder, "registry"),
        WRANGLER_LOG_PATH: path.join(this.#folder, "logs"),
      }),
      detached: true, // a process group of its own, with the workerds that it starts
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#child = child;
    children.add(child);
    const from = this.#log.length;
    let isReady = false;
    let timer;
    const ready = new Promise((resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`wrangler dev is not ready after ${START_AT_MOST / 1000} s:\n${this.#log.slice(from)}`)), START_AT_MOST);
      for (const stream of [child.stdout, child.stderr]) {
        stream.setEncoding("utf8").on("data", (text) => {
          this.#log += text;
          if (isReady) return; // what it prints of an hour of requests is not looked through again and again
          const found = this.#log.slice(from).match(/Ready on (http:\/\/127\.0\.0\.1:\d+)/);
          isReady = found !== null;
          if (isReady) resolve(found[1]);
        });
      }
      child.once("error", reject);
      child.once("exit", (code) => reject(new Error(`wrangler dev ended with ${code}:\n${this.#log}`)));
    });
    this.url = await ready.finally(() => clearTimeout(timer));
  }

  /** `kill -9` for wrangler and for the runtime, as when a machine loses power. */
  async kill() {
    const child = this.#child;
    const ended = new Promise((resolve) => child.once("close", resolve));
    if (kill(child)) await ended;
  }

  async stop() {
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

// If the test is killed, its servers end too.
const children = new Set();
process.on("exit", () => children.forEach(kill));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

function kill(child) {
  if (!children.delete(child)) return false;
  const running = child.exitCode === null && child.signalCode === null;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // the whole group has ended
  }
  return running;
}
