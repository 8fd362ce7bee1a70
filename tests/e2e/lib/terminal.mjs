// Runs the built terminal client.
import { spawn, spawnSync } from "node:child_process";
import path from "node:path";
import { at } from "../../../scripts/lib/run.mjs";
import { PATIENCE_MS } from "./wait.mjs";

const target = process.env.CARGO_TARGET_DIR ?? at("target");
export const TERMINAL = path.join(target, "debug/ssetarget");

/** The reason why tests that need a terminal cannot run, or false. */
export const noTmux = spawnSync("tmux", ["-V"]).status === 0 ? false : "tmux is missing: apt-get install tmux";

const clean = (env) => {
  const { SSETARGET_TOKEN, SSETARGET_PROGRESS, NO_COLOR, CLICOLOR_FORCE, LC_ALL, LC_CTYPE, ...rest } = process.env;
  return { ...rest, LANG: "C.UTF-8", ...env };
};

/**
 * Starts it. Resolves at its end to `{ code, stdout, stderr }`. The promise has `line(pattern)`,
 * which resolves once that is in its output, and `kill(signal)`.
 */
export function terminal(args, { env = {} } = {}) {
  const child = spawn(TERMINAL, args.map(String), { env: clean(env), stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  const output = { stdout: "", stderr: "" };
  const waiting = new Set();
  for (const name of ["stdout", "stderr"]) {
    child[name].setEncoding("utf8").on("data", (text) => {
      output[name] += text;
      for (const look of waiting) look();
    });
  }
  const ended = new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      running.delete(child);
      resolve({ code, ...output });
      for (const look of waiting) look(true);
    });
  });
  ended.line = (pattern) =>
    new Promise((resolve, reject) => {
      const look = (isOver) => {
        const match = output.stdout.match(pattern);
        if (!match && !isOver) return;
        waiting.delete(look);
        if (match) resolve(match);
        else reject(new Error(`${pattern} is not in the output:\n${output.stdout}\n${output.stderr}`));
      };
      waiting.add(look);
      look();
    });
  ended.kill = (signal) => child.kill(signal);
  return ended;
}

let number = 0;

/** Starts it in a terminal of this size. Returns `screen()`, `until(pattern)`, `resize(columns, rows)`, `key(name)`, `close()`. */
export function inTmux(args, { columns = 80, rows = 24, env = {} } = {}) {
  const socket = `ssetarget-${process.pid}-${(number += 1)}`;
  const tmux = (...words) => {
    const { status, stdout, stderr } = spawnSync("tmux", ["-L", socket, ...words], { env: clean(env), encoding: "utf8" });
    if (status !== 0) throw new Error(`tmux ${words.join(" ")}: ${stderr}`);
    return stdout;
  };
  const quoted = [TERMINAL, ...args].map((word) => `'${String(word).replaceAll("'", "'\\''")}'`).join(" ");
  tmux("-f", "/dev/null", "new-session", "-d", "-s", "it", "-x", String(columns), "-y", String(rows), `${quoted}; echo "exit code $?"; sleep 600`);
  sockets.add(socket);
  const screen = () => tmux("capture-pane", "-p", "-t", "it").split("\n").map((line) => line.trimEnd());
  return {
    screen,
    async until(pattern, milliseconds = PATIENCE_MS) {
      for (const end = Date.now() + milliseconds; ; ) {
        const lines = screen();
        if (pattern.test(lines.join("\n"))) return lines;
        if (Date.now() > end) throw new Error(`${pattern} is not on the screen:\n${lines.join("\n")}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    },
    /** Everything since the start, also the lines that have scrolled away. */
    history: () => tmux("capture-pane", "-p", "-S", "-", "-t", "it").split("\n").map((line) => line.trimEnd()),
    resize: (width, height) => tmux("resize-window", "-t", "it", "-x", String(width), "-y", String(height)),
    key: (name) => tmux("send-keys", "-t", "it", name),
    close() {
      sockets.delete(socket);
      spawnSync("tmux", ["-L", socket, "kill-server"]);
    },
  };
}

// If the test is killed, its terminals end too.
const running = new Set();
const sockets = new Set();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
  for (const socket of sockets) spawnSync("tmux", ["-L", socket, "kill-server"]);
});
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));
