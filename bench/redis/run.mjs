// npm run bench -- --redis: the losses of the original's Redis store, and the same servers with ours.
//
// Several servers on one Redis, and clients that come back with `Last-Event-ID` as a browser's
// `EventSource` does. What they have got in the end is compared with what was dispatched.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { Failure, at, capture, run } from "../../scripts/lib/run.mjs";
import { modernNode } from "../../scripts/lib/setup.mjs";

const IMPLEMENTATIONS = {
  original: { title: "original 4.0.5", command: () => [modernNode(), [at("bench/redis/original.mjs")]] },
  ours: { title: "ours", command: () => [at("target/release/bench-redis"), []], crate: "bench/redis/server" },
};

/** Measures and writes `redis.md` and `redis.json` into the folder. `short` is small, and fails if ours loses anything. */
export async function compareOnRedis(folder, { short = false, note } = {}) {
  if (capture("redis-server", ["--version"]) === null) {
    throw new Failure("redis-server was not found on the PATH; on Debian or Ubuntu: apt-get install redis-server");
  }
  const results = {};
  for (const [name, implementation] of Object.entries(IMPLEMENTATIONS)) {
    if (implementation.crate && !existsSync(at(implementation.crate))) continue;
    if (implementation.crate) {
      const { ok } = await run("cargo build", "cargo", ["build", "--release", "-p", "ssetarget-bench-redis"], { quiet: true });
      if (!ok) throw new Failure("the server on Redis does not build.");
    }
    const redis = await startRedis();
    try {
      results[name] = await losses(implementation, redis.url, short);
    } finally {
      redis.stop();
    }
    console.log(implementation.title, JSON.stringify(results[name]));
  }
  const version = capture("redis-server", ["--version"]).match(/v=(\S+)/)?.[1];
  const report = { date: new Date().toISOString(), redis: version, ...results };
  if (!short) {
    writeFileSync(path.join(folder, "redis.json"), `${JSON.stringify(report, null, 1)}\n`);
    writeFileSync(path.join(folder, "redis.md"), markdown(report, note));
  }
  const ours = Object.values(results.ours ?? {});
  if (ours.some(({ lost }) => lost > 0)) throw new Failure("ours lost events.");
}

async function losses(implementation, url, short) {
  const count = short ? 300 : 5_000;
  return {
    twoWriters: await concurrentWriters(implementation, url, 2, count),
    fourWriters: await concurrentWriters(implementation, url, 4, count),
    equal: await equalEvents(implementation, url),
    live: await liveAcrossServers(implementation, url),
  };
}

/** Servers dispatch at the same time; the client of another one comes back again and again, from where it is. */
async function concurrentWriters(implementation, url, writers, count) {
  const servers = await startServers(implementation, url, `writers-${writers}`, writers + 1);
  const [watched, ...writing] = servers;
  try {
    let busy = true;
    const dispatched = writing.map((server, writer) => server.dispatch(`writer=${writer}&count=${count}&burst=10&pauseMs=10`));
    const all = Promise.all(dispatched).then(() => (busy = false));
    const client = new Client(watched);
    let connections = 0;
    do {
      await client.connect(() => sleep(20));
      connections += 1;
    } while (busy);
    await all;
    await client.connect(() => client.silence(3_000));
    return { dispatched: writers * count, received: client.facts.size, lost: writers * count - client.facts.size, connections };
  } finally {
    servers.forEach((server) => server.stop());
  }
}

/** Events that say the same are events too. */
async function equalEvents(implementation, url) {
  const servers = await startServers(implementation, url, "equal", 1);
  try {
    await servers[0].dispatch("writer=0&count=99&equal");
    await servers[0].dispatch("writer=1&count=1&equal");
    const client = new Client(servers[0]);
    await client.connect(() => client.silence(1_000));
    return { dispatched: 100, received: client.ids.length, lost: 100 - client.ids.length };
  } finally {
    servers.forEach((server) => server.stop());
  }
}

/** The client of one server, while another one dispatches; then one event of its own, and a reconnect. */
async function liveAcrossServers(implementation, url) {
  const servers = await startServers(implementation, url, "live", 2);
  const [other, own] = servers;
  try {
    const client = new Client(own);
    let live = 0;
    await client.connect(async () => {
      await other.dispatch("writer=0&count=20");
      await client.silence(1_000);
      live = client.facts.size;
      await own.dispatch("writer=1&count=1");
      await client.silence(1_000);
    });
    await client.connect(() => client.silence(1_000));
    return { dispatched: 21, live, received: client.facts.size, lost: 21 - client.facts.size };
  } finally {
    servers.forEach((server) => server.stop());
  }
}

/** A client that resumes after the last id it got. */
class Client {
  ids = [];
  facts = new Set();
  #server;
  #lastId;
  #last = Date.now();

  constructor(server) {
    this.#server = server;
  }

  /** Is connected until `until` resolves. */
  async connect(until) {
    const abort = new AbortController();
    const headers = this.#lastId === undefined ? {} : { "last-event-id": this.#lastId };
    const response = await fetch(`${this.#server.url}/sse`, { headers, signal: abort.signal });
    const reading = this.#read(response.body).catch((error) => {
      if (!abort.signal.aborted) throw error;
    });
    await until();
    abort.abort();
    await reading;
  }

  /** Resolves when nothing has come for so long. */
  async silence(milliseconds) {
    this.#last = Date.now();
    while (Date.now() - this.#last < milliseconds) await sleep(20);
  }

  async #read(body) {
    let rest = "";
    for await (const text of body.pipeThrough(new TextDecoderStream())) {
      const blocks = (rest + text).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) this.#take(block);
    }
  }

  #take(block) {
    const field = (name) => block.match(new RegExp(`^${name}: (.*)$`, "m"))?.[1];
    const id = field("id");
    if (id === undefined) return;
    this.#lastId = id;
    this.#last = Date.now();
    this.ids.push(id);
    const { writer, n } = JSON.parse(field("data"));
    this.facts.add(`${writer}/${n}`);
  }
}

async function startServers(implementation, url, log, number) {
  return Promise.all(Array.from({ length: number }, () => startServer(implementation, url, log)));
}

async function startServer({ command }, url, log) {
  const [program, args] = command();
  const child = start(program, [...args, url, log]);
  const port = await new Promise((resolve, reject) => {
    child.stdout.once("data", (text) => resolve(Number(text)));
    child.once("close", (code) => reject(new Error(`the server ended with ${code}`)));
  });
  const server = `http://127.0.0.1:${port}`;
  return {
    url: server,
    async dispatch(query) {
      const response = await fetch(`${server}/dispatch?${query}`, { method: "POST" });
      if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
      await response.text();
    },
    stop: () => child.kill("SIGKILL"),
  };
}

/** A Redis of its own, that keeps nothing on disk. */
export async function startRedis() {
  const folder = mkdtempSync(path.join(tmpdir(), "ssetarget-bench-redis-"));
  const port = await freePort();
  const child = start("redis-server", ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]);
  while (!(await accepts(port))) await sleep(20);
  return {
    url: `redis://127.0.0.1:${port}`,
    stop() {
      child.kill("SIGKILL");
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

const children = new Set();
process.on("exit", () => children.forEach((child) => child.kill("SIGKILL")));

function start(program, args) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  child.stdout.setEncoding("utf8").on("data", () => {});
  children.add(child);
  child.once("close", () => children.delete(child));
  return child;
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

function accepts(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1");
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function markdown(report, note) {
  const names = Object.keys(IMPLEMENTATIONS).filter((name) => report[name]);
  const cell = ({ lost, dispatched, connections }) =>
    `${lost} of ${dispatched} lost${connections ? ` (${connections} connections, ${(lost / connections).toFixed(2)} lost for each)` : ""}`;
  const rows = [
    ["two servers dispatch at the same time, a client of a third reconnects", "twoWriters"],
    ["four servers do", "fourWriters"],
    ["100 events, 99 of which are equal", "equal"],
    ["20 events dispatched at one server, the client is at another; then one there, and a reconnect", "live"],
  ].map(([title, key]) => `| ${title} | ${names.map((name) => cell(report[name][key])).join(" | ")} |`);
  const live = names.map((name) => `${IMPLEMENTATIONS[name].title}: ${report[name].live.live} of 20`).join(", ");
  return `# Several servers on one Redis

Made by \`npm run bench -- --redis --save\` at ${report.date}, redis-server ${report.redis}. Do not edit.

| | ${names.map((name) => IMPLEMENTATIONS[name].title).join(" | ")} |
|---|${names.map(() => "---").join("|")}|
${rows.join("\n")}

In the last row the client had got so many of the 20 events while it was connected: ${live}.

The servers dispatch bursts of ten events with ten milliseconds between them; the client reconnects every twenty. An
event is lost when a client reads between another server's two commands, so how many there are differs by run and by
machine${note ? `. ${note}` : ""}, and who has one server loses none.
`;
}
