// typescript/watch.js with real servers: the demo, the demo with links, and the axum example, in Node and in a browser.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http from "node:http";
import { after, before, describe, test } from "node:test";
import { EventSource } from "eventsource";
import { WatchError, fold, runView, watch, watchView } from "../../typescript/watch.js";
import { serveAxum } from "./lib/axum.mjs";
import { launch, skip } from "./lib/browser.mjs";
import { answer, isTerminal, isWaiting, serve, startRun } from "./lib/demo.mjs";
import { cuttingProxy, seeded } from "./lib/proxy.mjs";
import { open, readAll } from "./lib/sse.mjs";

const plain = ({ id, type, data, json = data }) => ({ id: id === null ? null : String(id), type, data: json });

async function all(iterator) {
  const items = [];
  for await (const item of iterator) items.push(item);
  return items;
}

const TRANSPORTS = { fetch: {}, eventsource: { transport: "eventsource", EventSource } };
const json = { headers: { accept: "application/json" } };

describe("a run of the demo", () => {
  let demo;
  before(async () => {
    demo = await serve();
  });
  after(() => demo?.stop());

  for (const [name, options] of Object.entries(TRANSPORTS)) {
    test(`is seen whole and once over connections that are cut, with ${name}`, async () => {
      const id = await startRun(demo.url);
      const random = seeded(7);
      const proxy = await cuttingProxy(demo.url, { cuts: Array.from({ length: 6 }, () => Math.floor(random() * 900)), retry: 20 });
      try {
        const url = `${proxy.url}/${id}/sse`;
        const events = all(watch(url, options));
        const views = all(watchView(url, options));
        const reference = await open(`${demo.url}/${id}/sse`);
        await reference.until(isWaiting);
        await answer(demo.url, id);
        const log = await reference.rest();
        assert.deepEqual((await events).map(plain), log.map(plain));
        const snapshot = await (await fetch(`${demo.url}/${id}`, json)).json();
        assert.deepEqual((await views).at(-1), snapshot);
        assert.deepEqual({ ...(await events).reduce(fold, runView()), id }, snapshot);
        assert.ok(proxy.requests.length > 6);
        // After the end there are no further requests.
        const asked = proxy.requests.length;
        await new Promise((resolve) => setTimeout(resolve, 200));
        assert.equal(proxy.requests.length, asked);
      } finally {
        await proxy.close();
      }
    });

    test(`is followed from the middle, with ${name}`, async () => {
      const id = await startRun(demo.url);
      const viewer = await open(`${demo.url}/${id}/sse`);
      await viewer.until(isWaiting);
      const iterator = watchView(`${demo.url}/${id}/sse`, options);
      const { value: first } = await iterator.next();
      assert.deepEqual(first, await (await fetch(`${demo.url}/${id}`, json)).json());
      assert.equal(first.state, "running");
      await answer(demo.url, id);
      const views = await all(iterator);
      assert.deepEqual(views.at(-1), await (await fetch(`${demo.url}/${id}`, json)).json());
      assert.equal(views.at(-1).state, "completed");
    });
  }

  test("says that there is no such run, that a position is gone, and which run is the current one", async () => {
    await assert.rejects(all(watch(`${demo.url}/unknown/sse`)), { name: "WatchError", kind: "unknownRun", status: 404 });
    await assert.rejects(all(watchView(`${demo.url}/unknown/sse`)), { kind: "unknownRun", status: 404 });
    const id = await startRun(demo.url, { params: { workMs: 0, quantity: 0 } });
    const log = await readAll(`${demo.url}/${id}/sse`);
    const [reset, ...events] = await all(watch(`${demo.url}/${id}/sse`, { lastEventId: 1000 }));
    assert.deepEqual([reset.type, reset.id, reset.data.requested], ["reset", null, 1000]);
    assert.deepEqual(events.map(plain), log.map(plain));
    assert.ok(isTerminal({ ...events.at(-1), json: events.at(-1).data }));
    // A client that has all events gets only the end.
    assert.deepEqual(await all(watch(`${demo.url}/${id}/sse`, { lastEventId: events.at(-1).id })), []);
  });
});

test("a link's token opens a run, and nothing else does", async () => {
  const key = Buffer.from("a key that is long enough: 32 bytes and more").toString("base64");
  const closed = await serve({ vars: { SSETARGET_KEYS: `k1:${key}` } });
  try {
    const begin = async () => {
      const response = await fetch(closed.url, { method: "POST", body: JSON.stringify({ workMs: 0, quantity: 0 }), redirect: "manual" });
      const [url, token] = (await response.json()).page.split("#t=");
      return { url: `${url}/sse`, token };
    };
    const [run, other] = [await begin(), await begin()];
    await assert.rejects(all(watch(run.url)), { kind: "notAllowed", status: 401 });
    await assert.rejects(all(watch(run.url, { token: other.token })), { kind: "notAllowed", status: 401 });
    const events = await all(watch(run.url, { token: run.token }));
    assert.equal(events.at(-1).type, "failed");
    const asked = [];
    const renew = async (why) => {
      asked.push(why);
      return run.token;
    };
    const views = await all(watchView(run.url, { token: other.token, renew }));
    assert.deepEqual(asked, ["refused"]);
    assert.equal(views.at(-1).state, "failed");
  } finally {
    await closed.stop();
  }
});

describe("a job of the axum example", () => {
  let axum;
  let files;
  before(async () => {
    axum = await serveAxum();
    files = http.createServer((_, response) => {
      response.writeHead(200, { "content-type": "text/javascript", "access-control-allow-origin": "*" });
      response.end(readFileSync(new URL("../../typescript/watch.js", import.meta.url)));
    });
    await new Promise((resolve) => files.listen(0, "127.0.0.1", resolve));
  });
  after(async () => {
    files?.close();
    await axum?.stop();
  });

  const begin = async () => (await (await fetch(`${axum.url}/?workMs=300`, { method: "POST", redirect: "manual" })).json()).id;

  for (const [name, options] of Object.entries(TRANSPORTS)) {
    test(`is seen whole and once, and makes the server's snapshot, with ${name}`, async () => {
      const id = await begin();
      const proxy = await cuttingProxy(axum.url, { cuts: [150, 700, 20], retry: 20 });
      try {
        const [events, views] = await Promise.all([all(watch(`${proxy.url}/runs/${id}/sse`, options)), all(watchView(`${proxy.url}/runs/${id}/sse`, options))]);
        assert.deepEqual(events.map(plain), (await readAll(`${axum.url}/runs/${id}/sse`)).map(plain));
        assert.deepEqual(views.at(-1), await (await fetch(`${axum.url}/runs/${id}`, json)).json());
      } finally {
        await proxy.close();
      }
    });
  }

  test("also in a browser", { skip }, async () => {
    const browser = await launch();
    try {
      const id = await begin();
      // The page's policy does not allow this module.
      const page = await browser.newPage({ bypassCSP: true });
      await page.goto(`${axum.url}/${id}`);
      const seen = await page.evaluate(
        async ([module, path]) => {
          const { follow, watch } = await import(module);
          const events = async (options) => {
            const items = [];
            for await (const event of watch(path, options)) items.push(event);
            return items;
          };
          const view = new Promise((resolve, reject) => {
            let last;
            follow(path, (run) => (last = run), { onEnd: () => resolve(last), onError: reject });
          });
          return Promise.all([events({}), events({ transport: "eventsource" }), view]);
        },
        [`http://127.0.0.1:${files.address().port}/watch.js`, `/runs/${id}/sse`],
      );
      const log = (await readAll(`${axum.url}/runs/${id}/sse`)).map(plain);
      assert.deepEqual(seen[0].map(plain), log);
      assert.deepEqual(seen[1].map(plain), log);
      assert.deepEqual(seen[2], await (await fetch(`${axum.url}/runs/${id}`, json)).json());
      const unknown = await page.evaluate(
        async ([module]) => {
          const { watch } = await import(module);
          return watch("/runs/unknown/sse", { transport: "eventsource" }).next().catch(({ kind, status }) => [kind, status]);
        },
        [`http://127.0.0.1:${files.address().port}/watch.js`],
      );
      assert.deepEqual(unknown, ["unknownRun", 404]);
    } finally {
      await browser.close();
    }
  });
});

test("an error says what it is", () => {
  const error = new WatchError("refused", "no", 400);
  assert.ok(error instanceof Error);
  assert.deepEqual([error.name, error.kind, error.status, String(error)], ["WatchError", "refused", 400, "WatchError: no"]);
});
