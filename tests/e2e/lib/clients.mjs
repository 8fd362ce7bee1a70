// The clients of docs/clients.md, and what each of them does with a log.
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { EventSource } from "eventsource";
import { createEventSource } from "eventsource-client";
import { ensurePython } from "../../../scripts/lib/python.mjs";
import { at, capture } from "../../../scripts/lib/run.mjs";
import { modernNode } from "../../../scripts/lib/setup.mjs";
import { watch } from "../../../typescript/watch.js";
import { launch, skip as noBrowser } from "./browser.mjs";
import { skip as noFirefox, visit as visitInFirefox } from "./firefox.mjs";
import { cuttingProxy } from "./proxy.mjs";
import { Parser } from "./sse.mjs";

const RETRY_MS = 10;
/** The time that a client gets to read a complete log. */
const PATIENCE_MS = 60_000;
/** After this many requests beyond the end, a client counts as one that never stops. */
const OFTEN = 4;
const TYPES = ["note", "message"];

const target = process.env.CARGO_TARGET_DIR ?? at("target");
const PROGRAM = path.join(target, "debug/ssetarget");
/** Made by `npm run clients`. */
export const RUST_FOLDER = at("tests/clients/rust");
const RUST = path.join(target, "clients/debug/ssetarget-clients");

const npmVersion = (name) => JSON.parse(readFileSync(at("node_modules", name, "package.json"), "utf8")).version;

let python;
const withPython = async () => (python ??= await ensurePython("tests/clients/requirements.txt"));
const pythonVersion = (name) => readFileSync(at("tests/clients/requirements.txt"), "utf8").match(new RegExp(`^${name}==(.*)$`, "m"))[1];

/**
 * Each client: `version`, or nothing if it is not pinned; `missing`, why it cannot run here; `follow(url, tell,
 * signal, isSet)`, which calls `tell` with each event `{ id, type, data }` and resolves when the client has stopped
 * by itself; `set`, the settings that a user has to make, in words. With `isSet` these settings are made.
 */
export const CLIENTS = [
  {
    name: "`watch.js`, by `fetch`",
    version: () => "",
    set: "",
    async follow(url, tell, signal) {
      for await (const { id, type, data } of watch(url, { signal })) tell({ id, type, data: JSON.stringify(data) });
    },
  },
  {
    name: "`watch.js`, by `EventSource`",
    version: () => "",
    set: "types of events that are not those of a run: `types`",
    async follow(url, tell, signal) {
      for await (const { id, type, data } of watch(url, { signal, transport: "eventsource", EventSource, types: TYPES })) tell({ id, type, data: JSON.stringify(data) });
    },
  },
  {
    name: "Chromium's `EventSource`",
    version: () => "",
    missing: () => noBrowser,
    set: "",
    async follow(url, tell, signal) {
      const browser = await chromium();
      const page = await browser.newPage({ bypassCSP: true });
      try {
        await page.exposeFunction("tell", tell);
        await page.goto(new URL("/", url).href);
        const followed = page.evaluate(
          ([address, types]) =>
            new Promise((resolve) => {
              const source = new EventSource(address);
              for (const type of types) source.addEventListener(type, ({ lastEventId: id, data }) => window.tell({ id, type, data }));
              source.addEventListener("error", () => source.readyState === 2 && resolve());
            }),
          [url, TYPES],
        );
        await Promise.race([followed.catch(() => {}), aborted(signal)]);
      } finally {
        await page.close();
      }
    },
  },
  {
    name: "Firefox's `EventSource`",
    version: () => "",
    missing: () => noFirefox,
    set: "",
    async follow(url, tell, signal) {
      const page = await firefox();
      await page.goto(new URL("/", url).href);
      await page.evaluate(`(() => {
        window.told = [];
        window.source = new EventSource(${JSON.stringify(url)});
        for (const type of ${JSON.stringify(TYPES)}) source.addEventListener(type, ({ lastEventId: id, data }) => told.push({ id, type, data }));
      })()`);
      for (let isClosed = false; !isClosed && !signal.aborted; ) {
        const [told, state] = await page.evaluate("[told.splice(0), source.readyState]");
        told.forEach(tell);
        isClosed = state === 2;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      await page.evaluate("source.close()");
    },
  },
  {
    name: "Node's own `EventSource`",
    version: () => "",
    set: "`node --experimental-eventsource`; it does not keep its program alive between two connections",
    follow(url, tell, signal) {
      const script = `
        const source = new EventSource(${JSON.stringify(url)});
        for (const type of ${JSON.stringify(TYPES)}) {
          source.addEventListener(type, ({ lastEventId: id, data }) => console.log(JSON.stringify({ id, type, data })));
        }
        const look = setInterval(() => source.readyState === 2 && clearInterval(look), 10);`;
      return lines(modernNode(), ["--experimental-eventsource", "--no-warnings", "-e", script], tell, signal);
    },
  },
  {
    name: "npm `eventsource`",
    version: () => npmVersion("eventsource"),
    set: "",
    async follow(url, tell, signal) {
      const source = new EventSource(url);
      for (const type of TYPES) source.addEventListener(type, ({ lastEventId: id, data }) => tell({ id, type, data }));
      const closed = new Promise((resolve) => source.addEventListener("error", () => source.readyState === 2 && resolve()));
      await Promise.race([closed, aborted(signal)]);
      source.close();
    },
  },
  {
    name: "npm `eventsource-client`",
    version: () => npmVersion("eventsource-client"),
    set: "",
    async follow(url, tell, signal) {
      let client;
      const closed = new Promise((resolve) => {
        client = createEventSource({
          url,
          onMessage: ({ id, event: type = "message", data }) => tell({ id, type, data }),
          // The client closes itself only after this call.
          onDisconnect: () => setImmediate(() => client.readyState === "closed" && resolve()),
        });
      });
      await Promise.race([closed, aborted(signal)]);
      client.close();
    },
  },
  {
    name: "npm `@microsoft/fetch-event-source`",
    version: () => npmVersion("@microsoft/fetch-event-source"),
    set:
      "`onopen` that ends at `204`, which the default one takes for a failure; `fetch` that sends the id of the last event that was " +
      "handled, since it sends that of one it did not see whole; ignore events without data; `openWhenHidden: true`, or it drops the " +
      "connection of a hidden page",
    async follow(url, tell, signal, isSet) {
      globalThis.window ??= globalThis;
      globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };
      const control = new AbortController();
      signal.addEventListener("abort", () => control.abort());
      let last;
      const settings = {
        openWhenHidden: true,
        fetch(address, { headers, ...init }) {
          const { "last-event-id": _, ...others } = headers;
          return fetch(address, { ...init, headers: last === undefined ? others : { ...others, "last-event-id": last } });
        },
        async onopen(response) {
          if (response.status === 204) control.abort();
          else if (!response.ok) throw new Error(`the server answers ${response.status}`);
        },
      };
      await fetchEventSource(url, {
        signal: control.signal,
        onmessage({ id, event: type, data }) {
          if (isSet && id !== "") last = id;
          if (!isSet || data !== "") tell({ id, type, data });
        },
        ...(isSet && settings),
      });
    },
  },
  {
    name: "Python `httpx-sse`",
    version: () => pythonVersion("httpx-sse"),
    missing: async () => (await withPython()).missing,
    set: "a loop that comes back with `Last-Event-ID`, and ends at `204`; ignore events without data",
    follow: (url, tell, signal, isSet) => lines(python.python, [at("tests/clients/follow.py"), "httpx-sse", url, ...(isSet ? ["--set"] : [])], tell, signal),
  },
  {
    name: "Python `sseclient-py` with `requests`",
    version: () => pythonVersion("sseclient-py"),
    missing: async () => (await withPython()).missing,
    set: "a loop that comes back with `Last-Event-ID`, and ends at `204`",
    follow: (url, tell, signal, isSet) => lines(python.python, [at("tests/clients/follow.py"), "sseclient-py", url, ...(isSet ? ["--set"] : [])], tell, signal),
  },
  {
    name: "Rust `ssetarget::client`, by `ssetarget watch --json`",
    version: () => "",
    missing: () => !existsSync(PROGRAM) && "cargo build -p ssetarget-cli",
    set: "",
    follow: (url, tell, signal) => lines(PROGRAM, ["watch", "--json", url], ({ id, event, data }) => tell({ id, type: event, data: JSON.stringify(data) }), signal),
  },
  ...["eventsource-client", "sseer"].map((name) => ({
    name: `Rust \`${name}\``,
    version: () => rustVersion(name),
    missing: () => !existsSync(RUST) && "npm run clients builds it",
    set: { "eventsource-client": "leave the loop at `SSE::Connected` with `204`", sseer: "leave the loop when a stream ends that had no event: it does not show the `204`" }[name],
    follow: (url, tell, signal, isSet) => lines(RUST, [name, url, ...(isSet ? ["--set"] : [])], tell, signal),
  })),
  {
    name: "`curl -N`",
    version: () => "",
    missing: () => capture("curl", ["--version"]) === null && "there is no curl",
    set: "a loop that comes back with `-H 'Last-Event-ID: …'`, and ends at an empty answer",
    async follow(url, tell, signal) {
      for (let lastId = 0; !signal.aborted; ) {
        const resume = lastId > 0 ? ["-H", `last-event-id: ${lastId}`] : [];
        let text = "";
        const code = await output("curl", ["-sN", ...resume, url], (chunk) => (text += chunk), signal);
        const parser = new Parser();
        // The strict parser does not accept the proxy's own `retry:`.
        for (const { id, type, data } of parser.feed(Buffer.from(text.replace(/^retry: \d+\n/, "")))) tell({ id, type, data });
        lastId = parser.lastId || lastId;
        if (code === 0 && text === "") return;
      }
    },
  },
];

function rustVersion(name) {
  const lock = path.join(RUST_FOLDER, "Cargo.lock");
  return existsSync(lock) ? readFileSync(lock, "utf8").match(new RegExp(`name = "${name}"\\nversion = "(.*?)"`))?.[1] : undefined;
}

let browser;
const chromium = () => (browser ??= launch());

let fox;
const firefox = () => (fox ??= visitInFirefox("about:blank"));

/** Closes what the clients share. */
export async function closeClients() {
  await (await fox)?.close();
  fox = undefined;
  await (await browser)?.close();
  browser = undefined;
}

function aborted(signal) {
  return new Promise((resolve) => (signal.aborted ? resolve() : signal.addEventListener("abort", resolve, { once: true })));
}

function output(command, args, take, signal) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "ignore"], env: { ...process.env, NO_COLOR: "1" } });
    const kill = () => child.kill("SIGKILL");
    signal.addEventListener("abort", kill);
    child.stdout.setEncoding("utf8").on("data", take);
    child.once("error", reject);
    child.once("close", (code) => {
      signal.removeEventListener("abort", kill);
      resolve(code);
    });
  });
}

async function lines(command, args, tell, signal) {
  let rest = "";
  const take = (chunk) => {
    const whole = (rest + chunk).split("\n");
    rest = whole.pop();
    for (const line of whole) tell(JSON.parse(line));
  };
  await output(command, args, take, signal);
}

// ------------------------------------------------------------------ what they make of a log

const NOTES = 8;

/** Makes a log with notes, of which the last ends it. Resolves to its path and its events. */
async function makeLog(server, name) {
  const all = [];
  for (let n = 1; n <= NOTES; n += 1) {
    const data = JSON.stringify({ note: n, text: "a note that is long enough to be cut in its middle" });
    const last = n === NOTES ? "&terminal=true" : "";
    const response = await fetch(`${server}/${name}?type=note${last}`, { method: "POST", body: data });
    if (response.status !== 201) throw new Error(`${response.status} ${await response.text()}`);
    all.push({ id: String(n), type: "note", data });
  }
  return { path: `/${name}/sse`, all };
}

/** Lets a client follow a log. Resolves to its events, its requests, and whether it stopped by itself. */
async function run(client, server, address, options, isSet) {
  const proxy = await cuttingProxy(server, { retry: RETRY_MS, ...options });
  const control = new AbortController();
  const events = [];
  let isOver = false;
  let failure;
  const following = client
    .follow(proxy.url + address, (event) => events.push({ ...event, id: event.id == null ? null : String(event.id) }), control.signal, isSet)
    .catch((error) => (failure = error))
    .then(() => (isOver = true));
  const began = Date.now();
  const atEnd = () => proxy.requests.filter(({ status }) => status === 204).length >= OFTEN;
  while (!isOver && !atEnd() && Date.now() - began < PATIENCE_MS) await sleep(5);
  const stopped = isOver && !(failure && !control.signal.aborted);
  const isForEver = atEnd();
  // A client that has stopped must not come back.
  await sleep(stopped ? 10 * RETRY_MS : 0);
  control.abort();
  await proxy.close();
  await following;
  return { events, requests: proxy.requests, stopped, isForEver };
}

/** Compares a client's events with the log. */
function seen({ events }, all) {
  const key = ({ id, data }) => `${id} ${data}`;
  const told = events.map(key);
  const wanted = new Set(all.map(key));
  const lost = all.filter((event) => !told.includes(key(event))).length;
  const twice = told.filter((one, index) => wanted.has(one) && told.indexOf(one) !== index).length;
  const broken = told.filter((one) => !wanted.has(one)).length;
  const number = (count, words) => (count === 0 ? [] : [`${count} ${words}`]);
  const faults = [...number(lost, "lost"), ...number(twice, "twice"), ...number(broken, "not whole")];
  return faults.length === 0 ? "once" : faults.join(", ");
}

const EVENT = (n) => `id: ${n}\nevent: note\ndata: ${JSON.stringify({ note: n, text: "a note that is long enough to be cut in its middle" })}\n\n`;
const HEARTBEAT = 2;

/**
 * Where each connection is cut, for a client that comes back after the last whole event: after the `id:` of event 2,
 * in the data of event 3, before its blank line, in the `event:` of event 4, in the `id:` of event 5.
 */
const CUTS = (() => {
  const size = EVENT(1).length;
  const data = EVENT(1).indexOf("data:");
  const type = EVENT(1).indexOf("event:");
  return [HEARTBEAT + size + type, HEARTBEAT + size + data + 20, HEARTBEAT + size - 1, HEARTBEAT + size + type + 8, HEARTBEAT + size + 3];
})();

/** Resolves to the cells of a client's row in docs/clients.md. */
export async function rowOf(client, server, name) {
  const whole = await makeLog(server, name);
  const size = HEARTBEAT + EVENT(1).length * NOTES;
  const between = await run(client, server, whole.path, { cuts: [100, 100, 100], whole: true }, false);
  const middle = await run(client, server, whole.path, { cuts: CUTS }, false);
  const behind = await run(client, server, whole.path, { cuts: [size] }, false);
  const good = await run(client, server, whole.path, {}, false);
  const tail = await run(client, server, `${(await makeLog(server, `${name}-tail`)).path}?lastEventId=5`, { cuts: [HEARTBEAT + EVENT(1).length + 10] }, false);
  const set = await run(client, server, whole.path, { cuts: [...CUTS, 30, size] }, true);
  const setBehind = await run(client, server, whole.path, { cuts: [size] }, true);

  const isExact = seen(set, whole.all) === "once" && set.stopped && seen(setBehind, whole.all) === "once" && setBehind.stopped;
  const last = good.requests.at(-1).status;
  const end = good.isForEver ? "asks for ever" : last === 204 ? "asks once more" : "stops";
  const none = behind.isForEver ? "asks for ever" : behind.requests.at(-1).status === 204 && behind.stopped ? "stops" : "does not ask";
  const version = client.version();
  return [
    version ? `${client.name} ${version}` : client.name,
    seen(between, whole.all),
    seen(middle, whole.all),
    end,
    none,
    seen(tail, whole.all.slice(5)),
    client.set === "" ? "nothing" : client.set,
    isExact ? "once, to the end" : `${seen(set, whole.all)}${set.stopped ? "" : ", does not stop"}`,
  ];
}

export const line = (cells) => `| ${cells.join(" | ")} |`;

/** The rows of the table in docs/clients.md, by the names of the clients. */
export function tableIn(text) {
  const rows = text.match(/<!-- clients -->\n(?:\|[^\n]*\n){2}(.*?)<!-- \/clients -->/s)[1].split("\n").filter(Boolean);
  const find = (row) => CLIENTS.find(({ name }) => row.startsWith(`| ${name} `))?.name ?? row;
  return new Map(rows.map((row) => [find(row), row]));
}

/** Returns a client's name without Markdown. */
export const titleOf = ({ name }) => name.replaceAll("`", "");
