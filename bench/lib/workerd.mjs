// Serves a contestant by workerd itself: no proxy between it and the client, as `wrangler dev` would put there.
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { at } from "../../scripts/lib/run.mjs";
import { DRIVERS, contestant, modulesFolder } from "./contestants.mjs";

const WRANGLER_CONFIG = at("tests/worker/wrangler.toml");

/** The date and flags that the Workers of this repository have. */
export function compatibility() {
  const config = readFileSync(WRANGLER_CONFIG, "utf8");
  return { date: config.match(/^compatibility_date = "(.*?)"/m)[1], flags: ["no_nodejs_global_timers"] };
}

// In memory where there is such a folder: a commit waits for the disk, which would then be what is measured.
const MEMORY = "/dev/shm";
const PARENT = process.env.BENCH_STORAGE ?? (existsSync(MEMORY) ? MEMORY : tmpdir());

/** Flags of V8, to look into a run: `--perf-basic-prof`, `--trace-wasm-compilation-times`. */
const V8_FLAGS = process.env.BENCH_V8_FLAGS?.split(" ") ?? [];

/** Where the objects keep their data, for the report. */
export const storageKind = PARENT.startsWith(MEMORY) ? "in memory" : "on disk";

/** A folder for a contestant's storage, which outlives its servers. */
export class Storage {
  constructor(from) {
    this.folder = mkdtempSync(path.join(PARENT, "ssetarget-bench-"));
    mkdirSync(path.join(this.folder, "storage"));
    if (from) cpSync(path.join(from.folder, "storage"), path.join(this.folder, "storage"), { recursive: true });
    storages.add(this);
  }

  delete() {
    storages.delete(this);
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

/**
 * Starts workerd with a contestant on a free port.
 *
 * Resolves to `{ pid, port, rowsPort, inspectorPort, started, log, stop }` once it listens: `rowsPort` is that of
 * `rows.mjs`, `started` the time at which it was told to start, in milliseconds of the epoch.
 */
export async function serve(name, storage, { inspect = false } = {}) {
  const config = path.join(storage.folder, `${name}.capnp`);
  cpSync(modulesFolder(name), path.join(storage.folder, name), { recursive: true });
  writeFileSync(config, capnp(name, storage.folder));

  const started = Date.now();
  const flags = ["--control-fd=3", ...(inspect ? ["--inspector-addr=127.0.0.1:0"] : [])];
  const child = spawn(workerdBinary(), ["serve", ...flags, config], { stdio: ["ignore", "pipe", "pipe", "pipe"] });
  servers.add(child);
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (log += text));
  const ended = new Promise((resolve) => child.once("close", resolve));
  const ports = await new Promise((resolve, reject) => {
    const ports = {};
    let messages = "";
    child.stdio[3].setEncoding("utf8").on("data", (text) => {
      messages += text;
      for (const [, socket, port] of messages.matchAll(/"socket":"(\w+)","port":(\d+)/g)) ports[socket] = Number(port);
      ports.inspector = Number(messages.match(/"listen-inspector","port":(\d+)/)?.[1]);
      if (ports.http && (ports.rows || contestant(name).stateless) && (ports.inspector || !inspect)) resolve(ports);
    });
    child.once("error", reject);
    child.once("close", (code) => reject(new Error(`workerd ended with ${code}:\n${log}`)));
  });
  return {
    pid: child.pid,
    port: ports.http,
    rowsPort: ports.rows,
    inspectorPort: ports.inspector,
    started,
    log: () => log,
    async stop() {
      servers.delete(child);
      child.kill("SIGKILL");
      await ended;
    },
  };
}

/** The program itself: the one in `.bin` is a script around it. */
function workerdBinary() {
  return createRequire(import.meta.url)("workerd").default;
}

// A run that is cut short leaves nothing behind.
const servers = new Set();
const storages = new Set();
process.on("exit", () => {
  for (const child of servers) child.kill("SIGKILL");
  for (const storage of storages) storage.delete();
});
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

function capnp(name, folder) {
  const { stateless, index, vars = {} } = contestant(name);
  const all = readdirSync(modulesFolder(name));
  const drivers = DRIVERS.filter((file) => all.includes(file));
  const files = [...drivers, ...all.filter((file) => !drivers.includes(file))];
  const modules = files.map((file) => `(name = "${file}", ${file.endsWith(".wasm") ? "wasm" : "esModule"} = embed "${name}/${file}")`);
  const { date, flags } = compatibility();
  const objects = stateless
    ? ""
    : `
  bindings = [
    (name = "EVENTS", durableObjectNamespace = "WorkflowEvents"),
    (name = "ROWS", durableObjectNamespace = "RowCounter"),${index ? `
    (name = "RUNS", durableObjectNamespace = "RunIndex"),` : ""}${Object.entries(vars).map(([key, value]) => `
    (name = "${key}", text = "${value}"),`)}
  ],
  durableObjectNamespaces = [
    (className = "WorkflowEvents", uniqueKey = "bench", enableSql = true),
    (className = "RowCounter", uniqueKey = "rows", enableSql = true),${index ? `
    (className = "RunIndex", uniqueKey = "runs", enableSql = true),` : ""}
  ],
  durableObjectStorage = (localDisk = "storage"),`;
  const rows = stateless ? "" : `(name = "rows", address = "127.0.0.1:0", http = (), service = (name = "main", entrypoint = "Rows")),`;
  return `using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  v8Flags = ${JSON.stringify(V8_FLAGS)},
  services = [
    (name = "main", worker = .worker),
    (name = "storage", disk = (path = "${path.join(folder, "storage")}", writable = true)),
  ],
  sockets = [
    (name = "http", address = "127.0.0.1:0", http = (), service = "main"),
    ${rows}
  ],
);

const worker :Workerd.Worker = (
  modules = [
    ${modules.join(",\n    ")},
  ],
  compatibilityDate = "${date}",
  compatibilityFlags = ${JSON.stringify(flags)},${objects}
);
`;
}
