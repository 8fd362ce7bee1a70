// Starts programs: live output, signs of life, signals passed on, plain errors.
import { spawn, spawnSync } from "node:child_process";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import path from "node:path";

export const root = fileURLToPath(new URL("../..", import.meta.url));
export const at = (...parts) => path.join(root, ...parts);

/** An error whose message is all that the user needs: printed without a stack. */
export class Failure extends Error {}

/** Runs a script's body and turns thrown errors into a message and an exit code. */
export async function main(body) {
  await undefined; // lets the script's own constants, which stand below, come to life
  try {
    await body();
  } catch (error) {
    const plain = error instanceof Failure ? error.message : error.stack;
    // The error of a stopped child is of no interest.
    console.error(`\nerror: ${stopping ? "stopped." : plain}`);
    process.exitCode = 1;
  }
}

/**
 * Runs a program to its end. Its output is shown as it comes, or with `quiet`
 * only when it fails. Says every 15 s of silence that `title` is still going, unless `pulses` is false.
 *
 * Resolves to `{ ok, output, seconds }`; a program that cannot be started is a
 * `Failure`.
 */
export async function run(title, command, args, { cwd = root, env = process.env, quiet = false, shows = true, pulses = true } = {}) {
  const started = Date.now();
  const elapsed = () => Math.round((Date.now() - started) / 1000);
  const child = track(spawn(command, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] }));

  let output = "";
  let lastShown = Date.now();
  const take = (chunk) => {
    output += chunk;
    if (quiet) return;
    lastShown = Date.now();
    process.stdout.write(chunk);
  };
  // One stream for both: a compiler's errors belong between the lines around them.
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", take);

  const pulse = setInterval(() => {
    if (!pulses || Date.now() - lastShown < 14_500) return;
    lastShown = Date.now();
    const latest = quiet ? lastLine(output) : "";
    console.log(`  … ${title}: ${elapsed()} s${latest && ` (${latest})`}`);
  }, 1000);

  try {
    const code = await ended(child, command);
    if (code !== 0 && quiet && shows) process.stdout.write(output.slice(-200_000));
    return { ok: code === 0, output, seconds: elapsed() };
  } finally {
    clearInterval(pulse);
  }
}

/**
 * Runs a program in the foreground of this terminal; resolves to its exit code (null when a signal ended it). With
 * `stdin: "inherit"` it can ask.
 */
export function foreground(command, args, { cwd = root, env = process.env, stdin = "ignore" } = {}) {
  return ended(track(spawn(command, args, { cwd, env, stdio: [stdin, "inherit", "inherit"] })), command);
}

/** Returns the output of a short program, or null if it is missing or fails. */
export function capture(command, args, { cwd = root, env = process.env } = {}) {
  const result = spawnSync(command, args, { cwd, env, encoding: "utf8", maxBuffer: 1 << 28 });
  return result.status === 0 ? result.stdout.trim() : null;
}

/** True once the user has asked to stop. */
export const isStopping = () => stopping;

let stopping = false;
const children = new Set();

function track(child) {
  children.add(child);
  child.once("close", () => children.delete(child));
  return child;
}

function ended(child, command) {
  return new Promise((resolve, reject) => {
    child.once("error", (error) => {
      children.delete(child);
      reject(new Failure(error.code === "ENOENT" ? `\`${command}\` was not found on the PATH.` : error.message));
    });
    child.once("close", resolve);
  });
}

// Children stay in our process group, so a kill of the whole group leaves
// nothing behind; a signal to this process alone is passed on by hand.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, () => {
    const again = stopping;
    stopping = true;
    for (const child of children) child.kill(again ? "SIGKILL" : signal);
    if (again || children.size === 0) process.exit(128 + constants.signals[signal]);
  });
}

// A killed npm passes nothing on: do not outlive it, holding a port.
if (process.env.npm_lifecycle_event) {
  const npm = process.ppid;
  setInterval(() => process.ppid === npm || process.kill(process.pid, "SIGTERM"), 1000).unref();
}

function lastLine(text) {
  return text.trimEnd().split(/[\r\n]/).at(-1).trim().slice(0, 80);
}
