// Runs examples/axum on a free port.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { at } from "../../../scripts/lib/run.mjs";

const target = process.env.CARGO_TARGET_DIR ?? at("target");
export const EXAMPLE = path.join(target, "debug/ssetarget-axum-example");

/** Returns a new folder for a server's logs. It is removed when the tests end. */
export function dataFolder() {
  const folder = mkdtempSync(path.join(tmpdir(), "ssetarget-axum-"));
  folders.push(folder);
  return folder;
}

/**
 * Starts the example. Resolves to `{ url, pid, log, stop, kill }`; `stop` asks it to end and resolves to its exit code.
 * Its logs are in a folder of its own, unless `env` has `DATA_DIR`.
 */
export async function serveAxum(env = {}) {
  const child = start(EXAMPLE, [], { PORT: "0", DATA_DIR: dataFolder(), ...env });
  const url = (await printed(child, /Listening on (http:\S+)/, START_AT_MOST))[1];
  return {
    url,
    pid: child.pid,
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

/** After so many milliseconds a server that does not listen has failed. */
const START_AT_MOST = 60_000;

function start(program, args, env = {}) {
  const child = spawn(program, args.map(String), { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "inherit"] });
  running.add(child);
  child.ended = new Promise((resolve) => child.once("close", resolve)).finally(() => running.delete(child));
  return child;
}

// If the test is killed, its servers end too.
const running = new Set();
const folders = [];
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
  for (const folder of folders) rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
});
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

function printed(child, pattern, milliseconds) {
  child.log = "";
  return new Promise((resolve, reject) => {
    const late = () => {
      child.kill("SIGKILL");
      reject(new Error(`${child.spawnfile} has not started after ${milliseconds / 1000} s:\n${child.log}`));
    };
    const timer = setTimeout(late, milliseconds);
    child.once("error", reject);
    child.ended.then((code) => {
      clearTimeout(timer);
      reject(new Error(`${child.spawnfile} ended with ${code}:\n${child.log}`));
    });
    child.stdout.setEncoding("utf8").on("data", (text) => {
      child.log += text;
      const match = child.log.match(pattern);
      if (!match) return;
      clearTimeout(timer);
      resolve(match);
    });
  });
}
