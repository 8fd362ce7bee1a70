// Serves a built Worker with `wrangler dev` and storage of its own, and knows the demo's routes.
import { spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { at } from "../../../scripts/lib/run.mjs";
import { modernNode, nodeEnv } from "../../../scripts/lib/setup.mjs";

/**
 * Starts `wrangler dev` on a free port. Serves a copy of the build, so that building again does not
 * reload the Worker in the middle of a test.
 *
 * Resolves to `{ url, folder, state, pid, log, restart, stop }`: `folder` is a temporary one that `stop`
 * deletes, `state` is the one inside it where the local runtime keeps its data.
 *
 * `parent` is the folder in which the temporary folder is made. `vars` are the Worker's.
 */
export async function serve({ build = "examples/worker/build", config = "wrangler.toml", parent = tmpdir(), env = {}, vars = {} } = {}) {
  const folder = mkdtempSync(path.join(parent, "ssetarget-e2e-"));
  const state = path.join(folder, "state");
  cpSync(at(build), path.join(folder, "build"), { recursive: true, filter: (file) => !file.endsWith(".tmp") });
  const toml = readFileSync(at(config), "utf8")
    .replace(/^main = .*$/m, 'main = "build/index.js"\n' + varsLine(vars))
    .replace(/^\[build\]\n(?:[^[\n].*\n|\n)*/m, "");
  mkdirSync(state);
  writeFileSync(path.join(folder, "wrangler.toml"), toml);

  const server = { folder, state, ...(await launch(folder, state, env)) };
  return Object.assign(server, {
    /** Kills it as a crash would, and starts it again on the same state, with another `url`. */
    async restart() {
      await server.kill();
      Object.assign(server, await launch(folder, state, env));
    },
    async stop() {
      await server.kill();
      rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
    },
  });
}

// The suite of viewers runs once for each transport.
const varsLine = (vars) => {
  const { TRANSPORT } = process.env;
  const all = Object.entries({ ...(TRANSPORT && { TRANSPORT }), ...vars });
  return all.length > 0 ? `vars = { ${all.map(([name, value]) => `${name} = ${JSON.stringify(value)}`).join(", ")} }\n` : "";
};

async function launch(folder, state, env) {
  const args = ["dev", "--ip", "127.0.0.1", "--port", "0", "--inspector-port", "0", "--persist-to", state];
  const settings = {
    CI: "true",
    TMPDIR: folder,
    CLOUDFLARE_CF_FETCH_ENABLED: "false",
    WRANGLER_REGISTRY_PATH: path.join(folder, "registry"),
    WRANGLER_LOG_PATH: path.join(folder, "logs"),
    ...env,
  };
  // wrangler gets a process group of its own, so that its workerds end with it.
  const wrangler = spawn(modernNode(), [at("node_modules/wrangler/bin/wrangler.js"), ...args], {
    cwd: folder,
    env: nodeEnv(settings),
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.add(wrangler);
  const ended = new Promise((resolve) => wrangler.once("close", resolve));
  let log = "";
  const ready = new Promise((resolve, reject) => {
    for (const stream of [wrangler.stdout, wrangler.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        log += text;
        const url = log.match(/Ready on (http:\/\/127\.0\.0\.1:\d+)/)?.[1];
        if (url) resolve(url);
      });
    }
    wrangler.once("error", reject);
    wrangler.once("exit", (code) => reject(new Error(`wrangler dev ended with ${code}:\n${log}`)));
  });
  return {
    url: await ready,
    pid: wrangler.pid,
    log: () => log,
    kill() {
      kill(wrangler);
      return ended;
    },
  };
}

// If the test is killed, its servers end too.
const running = new Set();
process.on("exit", () => running.forEach(kill));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

function kill(child) {
  if (!running.delete(child)) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // it has ended
  }
}

/** Params for a run that is quick except for its sleep of two seconds. */
export const QUICK = { workMs: 20 };

/** Starts a run and returns its id. */
export async function startRun(url, { id, params = QUICK } = {}) {
  const query = id === undefined ? "" : `?id=${encodeURIComponent(id)}`;
  const response = await fetch(`${url}/${query}`, { method: "POST", body: JSON.stringify(params), redirect: "manual" });
  const body = await response.text();
  if (response.status !== 303) throw new Error(`POST /${query}: ${response.status} ${body}`);
  return JSON.parse(body).id;
}

/** Answers the wait of a run. */
export async function answer(url, id, event) {
  const body = event === undefined ? undefined : JSON.stringify(event);
  const response = await fetch(`${url}/${id}/event`, { method: "POST", body });
  const text = await response.text();
  if (response.status !== 200) throw new Error(`POST /${id}/event: ${response.status} ${text}`);
  return text;
}

/** Returns whether this is the event after which a run waits for an answer. */
export const isWaiting = ({ type, json }) => type === "started" && json.kind === "waitForEvent";

/** Returns whether an event ends a run. */
export const isTerminal = ({ type, json }) => json.kind === "workflow" && (type === "completed" || type === "failed");

/**
 * Posts a body that the server does not read to its end, and resolves to the `{ status, body }` of the answer. While the
 * body is still being sent, the connection may break off before the answer is read: then the request is made again.
 */
export async function refused(url, body) {
  for (let tries = 0; tries < 20; tries++) {
    const response = await fetch(url, { method: "POST", ...body(), redirect: "manual" }).catch(() => undefined);
    const text = await response?.text().catch(() => undefined);
    if (text !== undefined && !isLostByWrangler(response.status, text)) return { status: response.status, body: text };
  }
  throw new Error("the connection broke off 20 times");
}

/** Whether the connection between wrangler and the runtime broke off: wrangler answers then, with the text of its error. */
export const isLostByWrangler = (status, text) => status === 500 && text.includes("Error: Network connection lost.");
