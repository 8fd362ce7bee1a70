// Logs read by the official client of the Durable Streams protocol, over connections that are cut, to their end.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { stream } from "@durable-streams/client";
import { serveAxum } from "./lib/axum.mjs";
import { answer, isWaiting, serve, startRun } from "./lib/demo.mjs";
import { cuttingProxy } from "./lib/proxy.mjs";
import { open, readAll } from "./lib/sse.mjs";
import { until } from "./lib/wait.mjs";

const RETRY = { initialDelay: 10, maxDelay: 100, multiplier: 1.3 };
const message = ({ id, type, json }) => ({ id, type, data: json });

/**
 * Reads a stream to its end; resolves to its messages. When a connection of the mode `sse` breaks, the client throws
 * an error, and its user begins again where the last messages ended.
 */
async function follow(url, options = {}) {
  const messages = [];
  let isWhole = false;
  let { offset } = { offset: "-1", ...options };
  for (;;) {
    const response = await stream({ url, json: true, backoffOptions: RETRY, ...options, offset });
    response.subscribeJson((batch) => {
      messages.push(...batch.items);
      ({ offset } = batch);
      isWhole = batch.streamClosed;
    });
    try {
      await response.closed;
      // The client delivers the last messages after that.
      await until(() => `the end is delivered; the last offset is ${offset}`, () => isWhole);
      return messages;
    } catch (error) {
      assert.equal(error.message, "terminated");
    }
  }
}

const MODES = [["long-poll", "long-poll"], ["sse", "sse"], ["the mode it chooses", true]];

/** Tests that every server of a log must pass. `log` is the address of a log with all of its events, and `next` is called once it is followed. */
function reads(what, begin) {
  describe(what, () => {
    for (const [name, live] of MODES) {
      test(`is read live, each event once, to its end, by ${name}`, async () => {
        const { url, finish } = await begin();
        const proxy = await cuttingProxy(url.origin, { cuts: [40, 500, 900] });
        try {
          const followed = follow(proxy.url + url.pathname, { live });
          followed.catch(() => {}); // it is awaited later
          const all = await finish();
          assert.deepEqual(await followed, all.map(message));
          if (live === "sse") assert.ok(proxy.requests.length > 3, `${proxy.requests.length} requests`);
        } finally {
          await proxy.close();
        }
      });
    }

    test("is read after it has ended, and from the middle", async () => {
      const { url, finish } = await begin();
      const all = (await finish()).map(message);
      assert.deepEqual(await follow(url.href, { live: false }), all);
      const half = await follow(url.href, { offset: String(all[2].id).padStart(16, "0"), live: "sse" });
      assert.deepEqual(half, all.slice(3));
      const head = await fetch(url, { method: "HEAD" });
      assert.deepEqual([head.status, head.headers.get("stream-closed"), head.headers.get("stream-next-offset")], [200, "true", String(all.at(-1).id).padStart(16, "0")]);
      const first = await fetch(`${url}?offset=-1`);
      const again = await fetch(`${url}?offset=-1`, { headers: { "if-none-match": first.headers.get("etag") } });
      assert.deepEqual([first.status, again.status], [200, 304]);
      assert.deepEqual(await first.json(), all);
    });

    test("is refused where it cannot be read", async () => {
      const { url, finish } = await begin();
      await finish();
      const status = async (address, init) => (await fetch(address, init)).status;
      assert.equal(await status(`${url}?offset=0000000000009999`), 410);
      assert.equal(await status(`${url}?offset=7`), 400);
      assert.equal(await status(`${url}?live=sse`), 400);
      assert.equal(await status(new URL("/unknown/stream?offset=-1", url)), 404);
      for (const method of ["PUT", "POST", "DELETE"]) assert.equal(await status(url, { method }), 405);
    });
  });
}

describe("on any server", () => {
  let axum;
  before(async () => {
    axum = await serveAxum();
  });
  after(() => axum?.stop());

  reads("a job of the axum example", async () => {
    const response = await fetch(`${axum.url}/?workMs=100`, { method: "POST", redirect: "manual" });
    const { id } = await response.json();
    return { url: new URL(`/${id}/stream`, axum.url), finish: () => readAll(`${axum.url}/${id}/sse`) };
  });
});

describe("on Workers", () => {
  let demo;
  before(async () => {
    demo = await serve();
  });
  after(() => demo?.stop());

  reads("a run of the demo", async () => {
    const id = await startRun(demo.url);
    const reference = await open(`${demo.url}/${id}/sse`);
    return {
      url: new URL(`/${id}/stream`, demo.url),
      async finish() {
        await reference.until(isWaiting);
        await answer(demo.url, id);
        return reference.rest();
      },
    };
  });
});
