// Runs examples/axum on a free port.
import { spawn } from "node:child_process";
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
