// Clients that people use, over a network that breaks: each sees each event once and stops.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, describe, test } from "node:test";
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { EventSource } from "eventsource";
import { createEventSource } from "eventsource-client";
import { modernNode } from "../../scripts/lib/setup.mjs";
import { answer, isWaiting, serve, startRun } from "./lib/demo.mjs";
import { cuttingProxy, seeded } from "./lib/proxy.mjs";
import { Parser, open, readAll } from "./lib/sse.mjs";

const RETRY_MS = 20;
const CUTS = 6;

let demo;
before(async () => {
  demo = await serve();
});
after(() => demo?.stop());

/** Each: follows a stream until it stops by itself; resolves to `[{ id, type, data }]`. */
const CLIENTS = {
  "npm eventsource"(url) {
    return listen(new EventSource(url));
  },

  "Node's own EventSource"(url) {
    // It does not report that it is closed, and does not keep its program alive while it waits to reconnect.
    const script = `
      const source = new EventSource(${JSON.stringify(url)});
      const events = [];
      (${listen})(source, events);
      const look = setInterval(() => source.readyState === 2 && clearInterval(look), 10);
      process.on("exit", () => console.log(JSON.stringify(events)));`;
    return output(modernNode(), ["--experimental-eventsource", "--no-warnings", "-e", script]).then(({ stdout }) => JSON.parse(stdout));
  },

  "eventsource-client"(url) {
    const events = [];
    return new Promise((resolve) => {
      const client = createEventSource({
        url,
        onMessage: ({ id, event: type = "message", data }) => events.push({ id, type, data }),
        // It closes itself only after this call.
        onDisconnect: () => setImmediate(() => client.readyState === "closed" && resolve(events)),
      });
    });
  },

  async "fetch-event-source"(url) {
    globalThis.window = globalThis;
    globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
    const events = [];
    await fetchEventSource(url, {
      onmessage: ({ id, event: type, data }) => void events.push({ id, type, data }),
    });
    return events;
  },

  async curl(url) {
    const events = [];
    for (let lastId = 0; ; ) {
      const resume = lastId > 0 ? ["-H", `last-event-id: ${lastId}`] : [];
      const { code, stdout } = await output("curl", ["-sN", ...resume, url]);
      // The strict parser does not take the proxy's own `retry:`.
      const parser = new Parser();
      const told = parser.feed(Buffer.from(stdout.replace(/^retry: \d+\n/, "")));
      events.push(...told.map(({ id, type, data }) => ({ id: String(id), type, data })));
      lastId = parser.lastId || lastId;
      if (code !== 0) continue;
      if (stdout === "") return events;
      parser.end();
    }
  },
};

/** Clients that treat the end of the body as the end of the log, and so do not come back for a 204. */
const STOPS_AT_EOF = ["fetch-event-source"];

/** Clients that fire a message for every blank line, so also for the id with which a stream from the tail begins. */
const FIRES_EMPTY = ["fetch-event-source"];

/** Clients that forget an id without data, unlike an EventSource, and come back without one. */
const FORGETS_POSITION = ["eventsource-client"];

/** Clients that count an event as seen once they have read its `id:`, and so lose one that is cut after that. */
const LOSES_CUT_EVENTS = ["fetch-event-source"];

describe("a run followed live over connections that are cut", async () => {
  let all;
  const followed = new Map();
  before(async () => {
    const id = await startRun(demo.url);
    const path = `/${id}/sse`;
    for (const [index, [name, follow]] of Object.entries(CLIENTS).entries()) {
      const random = seeded(index + 1);
      const cuts = Array.from({ length: CUTS }, () => Math.floor(random() * 900));
      const proxy = await cuttingProxy(demo.url, { cuts, retry: RETRY_MS, whole: LOSES_CUT_EVENTS.includes(name) });
      const events = follow(proxy.url + path);
      events.catch(() => {}); // it is awaited later
      followed.set(name, { proxy, events });
    }
    const reference = await open(demo.url + path);
    await reference.until(isWaiting);
    await answer(demo.url, id);
    all = (await reference.rest()).map(plain);
  });
  after(() => Promise.all([...followed.values()].map(({ proxy }) => proxy.close())));

  for (const name of Object.keys(CLIENTS)) {
    test(`${name} sees every event once and stops`, async () => {
      const { proxy, events } = followed.get(name);
      assert.deepEqual(await events, all);
      await stopped(proxy, STOPS_AT_EOF.includes(name) ? 200 : 204);
      assert.ok(proxy.requests.length > CUTS / 2, `${proxy.requests.length} requests`);
    });
  }
});

// The address says from=latest each time, and no event was seen before the connection was lost.
for (const transport of ["direct", "hibernating"]) {
  describe(`a run followed from its tail, ${transport}, cut before the first event`, () => {
    let server;
    before(async () => {
      server = await serve({ vars: { TRANSPORT: transport } });
    });
    after(() => server?.stop());

    for (const [name, follow] of Object.entries(CLIENTS)) {
      const forgets = FORGETS_POSITION.includes(name);
      test(`${name} ${forgets ? "does not know where it was" : "misses nothing"}`, async () => {
        const id = await startRun(server.url);
        const path = `/${id}/sse`;
        const reference = await open(server.url + path);
        const { id: tail } = await reference.until(isWaiting);
        const opening = `:\nid: ${tail}\n\n`;
        const proxy = await cuttingProxy(server.url, { cuts: [opening.length], retry: 500 });
        try {
          const following = follow(`${proxy.url}${path}?from=latest`);
          while (!proxy.requests[0]?.isCut) await new Promise((resolve) => setTimeout(resolve, 5));
          await answer(server.url, id);
          const all = (await reference.rest()).map(plain);
          const events = await following;
          assert.equal(proxy.requests[1].lastEventId, forgets ? null : String(tail));
          if (forgets) return;
          const empty = events.filter(({ data }) => data === "");
          assert.equal(empty.length, FIRES_EMPTY.includes(name) ? 1 : 0);
          assert.deepEqual(events.filter(({ data }) => data !== ""), all.slice(all.findIndex((event) => event.id === String(tail)) + 1));
        } finally {
          await proxy.close();
        }
      });
    }
  });
}

describe("a run that has ended, over a good connection", async () => {
  let path;
  let all;
  before(async () => {
    const id = await startRun(demo.url, { params: { workMs: 0, quantity: 0 } });
    path = `/${id}/sse`;
    all = (await readAll(demo.url + path)).map(plain);
  });

  for (const [name, follow] of Object.entries(CLIENTS)) {
    test(`${name} asks no more than it must`, async () => {
      const proxy = await cuttingProxy(demo.url, { retry: RETRY_MS });
      try {
        assert.deepEqual(await follow(proxy.url + path), all);
        const once = STOPS_AT_EOF.includes(name);
        await stopped(proxy, once ? 200 : 204);
        const last = all.at(-1).id;
        const asked = proxy.requests.map(({ lastEventId, status }) => [lastEventId, status]);
        assert.deepEqual(asked, once ? [[null, 200]] : [[null, 200], [last, 204]]);
      } finally {
        await proxy.close();
      }
    });
  }
});

test("an unknown run is refused once, not asked for again and again", async () => {
  const proxy = await cuttingProxy(demo.url);
  const source = new EventSource(`${proxy.url}/unknown/sse`);
  const { code } = await new Promise((resolve) => source.addEventListener("error", resolve));
  assert.equal(code, 404);
  assert.equal(source.readyState, EventSource.CLOSED);
  assert.equal(proxy.requests.length, 1);
  await proxy.close();
});

/** Follows any EventSource until it is closed. Has no dependencies, to run in another program, too. */
function listen(source, events = []) {
  const types = ["started", "attempt_failed", "progress", "completed", "failed", "reset", "restarted", "message"];
  for (const type of types) {
    source.addEventListener(type, ({ lastEventId: id, data }) => events.push({ id, type, data }));
  }
  return new Promise((resolve) => {
    source.addEventListener("error", () => source.readyState === 2 && resolve(events));
  });
}

/** Waits for a request that must not come. Nothing can be awaited, so it takes many times the time that a request would need. */
async function stopped({ requests }, status) {
  const { length } = requests;
  await new Promise((resolve) => setTimeout(resolve, 15 * RETRY_MS));
  assert.equal(requests.length, length);
  assert.equal(requests.at(-1).status, status);
  assert.equal(requests.filter((request) => request.status === 204).length, status === 204 ? 1 : 0);
}

function plain({ id, type, data }) {
  return { id: String(id), type, data };
}

function output(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
    let stdout = "";
    child.stdout.setEncoding("utf8").on("data", (text) => (stdout += text));
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, stdout }));
  });
}
