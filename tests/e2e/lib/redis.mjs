// Redis servers of the tests, each on a free port with its files in a temporary folder, and a
// client that shares nothing with the tested ones.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { freePort } from "./ports.mjs";

const isThere = spawnSync("redis-server", ["--version"]).status === 0;

/** The options of tests that need Redis: without it they are skipped, or fail if `CI` is set. */
export const NEEDS_REDIS = { skip: !isThere && !process.env.CI && "there is no `redis-server` on the PATH" };
if (NEEDS_REDIS.skip) console.log(`\n!!! The tests with a Redis are SKIPPED: ${NEEDS_REDIS.skip}\n`);

/** Starts a server that writes everything to its file before it answers. */
export async function startRedis() {
  const redis = new Redis(await freePort());
  await redis.start();
  return redis;
}

export class Redis {
  #folder = mkdtempSync(path.join(tmpdir(), "ssetarget-redis-"));
  #child;

  constructor(port) {
    this.port = port;
    this.url = `redis://127.0.0.1:${port}`;
  }

  /** Starts the server; after a kill, with the data in its files. */
  async start() {
    const options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning"];
    this.#child = spawn("redis-server", ["--port", this.port, ...options], { cwd: this.#folder, stdio: "ignore" });
    children.add(this.#child);
    let failure;
    this.#child.once("error", (error) => (failure = error));
    this.#child.once("exit", (code, signal) => (failure ??= new Error(`redis-server ended with ${signal ?? code} as it started`)));
    while ((await this.say("PING").catch(() => null)) !== "PONG") {
      if (failure) throw failure;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** `kill -9`. */
  async kill() {
    const child = this.#child;
    if (!children.delete(child)) return;
    const ended = new Promise((resolve) => child.once("close", resolve));
    child.kill("SIGKILL");
    await ended;
  }

  async stop() {
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  }

  /** Returns the answer to a command: a string, or the first line of anything else. Fails if the server ends before. */
  say(...words) {
    return new Promise((resolve, reject) => {
      const socket = net.connect(this.port, "127.0.0.1");
      let answer = "";
      socket.setEncoding("utf8");
      socket.on("data", (text) => {
        answer += text;
        const [line] = answer.split("\r\n", 1);
        const end = line[0] === "$" && line !== "$-1" ? line.length + Number(line.slice(1)) + 4 : line.length + 2;
        if (answer.length < end) return; // correct for ASCII, and the tests read nothing else
        socket.destroy();
        resolve(line[0] === "$" ? answer.slice(line.length + 2, end - 2) : line.slice(1));
      });
      socket.on("error", reject);
      // A server that is killed after it has read the command closes without an error.
      socket.on("close", () => reject(new Error(`Redis gave no answer to ${words[0]}`)));
      socket.write([`*${words.length}`, ...words.flatMap((word) => [`$${Buffer.byteLength(word)}`, word]), ""].join("\r\n"));
    });
  }

  /** The ids of ssetarget's connections. */
  async connections() {
    const list = await this.say("CLIENT", "LIST");
    const own = list.split("\n").filter((line) => line.includes("name=ssetarget"));
    return own.map((line) => line.match(/^id=(\d+)/)[1]);
  }

  /** Ends one of them. `random` gives numbers from 0 to 1. */
  async killConnection(random) {
    const ids = await this.connections();
    if (ids.length > 0) await this.say("CLIENT", "KILL", "ID", ids[Math.floor(random() * ids.length)]);
    return ids.length > 0;
  }
}

// If the test is killed, its servers end too.
const children = new Set();
process.on("exit", () => children.forEach((child) => child.kill("SIGKILL")));
