// Logs in Redis behind a Worker: with one connection for each request, and with one that an object
// keeps.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { EventSource } from "eventsource";
import { Tail, dispatch } from "./lib/log.mjs";
import { NEEDS_REDIS, startRedis } from "./lib/redis.mjs";
import { open, readAll } from "./lib/sse.mjs";
import { until } from "./lib/wait.mjs";
import { serve } from "./lib/wrangler.mjs";

describe("a Worker on Redis", NEEDS_REDIS, () => {
  let redis;
  let server;
  before(async () => {
    redis = await startRedis();
    server = await serve({ vars: { REDIS_URL: redis.url } });
  });
  after(async () => {
    await server?.stop();
    await redis?.stop();
  });

  test("a Worker's socket keeps the promise of stores", async () => {
    const response = await fetch(`${server.url}/hub/contract`);
    assert.equal(await response.text(), "the promise is kept");
  });

  for (const kind of ["redis", "hub"]) {
    const log = (name) => `${server.url}/${kind}/${name}`;

    test(`${kind}: replay, then live, then the end`, async () => {
      const url = log(`plain-${kind}`);
      const [first, second] = await dispatch(url, [{ data: "1" }, { data: "2", key: "k" }]);
      assert.equal(second, first + 1);
      const viewer = await open(`${url}/sse`);
      await viewer.until((event) => event.id === second);
      const [duplicate, third] = await dispatch(url, [{ data: "2", key: "k" }, { data: "3", terminal: true }]);
      assert.equal(duplicate, null);
      const events = await viewer.rest();
      assert.deepEqual(events.map(({ id, json }) => [id, json]), [[first, 1], [second, 2], [third, 3]]);
      assert.deepEqual((await readAll(`${url}/sse`, { lastEventId: first })).map(({ id }) => id), [second, third]);
      const headers = { "last-event-id": `${third}` };
      assert.equal((await fetch(`${url}/sse`, { headers })).status, 204);
      assert.equal((await fetch(`${url}/sse`, { headers: { "last-event-id": "x" } })).status, 400);
      // A large event, which comes in many chunks of the socket.
      const data = JSON.stringify("é".repeat(300_000));
      await dispatch(url, [{ data, terminal: true }]);
      const large = await readAll(`${url}/sse`, { lastEventId: third });
      assert.equal(large[0].data, data);
    });

    test(`${kind}: a log that is deleted and written again resets its viewers`, async () => {
      const url = log(`anew-${kind}`);
      const [old] = await dispatch(url, [{ data: "1" }]);
      const viewer = await open(`${url}/sse`);
      await viewer.until((event) => event.id === old);
      await redis.say("FLUSHALL");
      const [id] = await dispatch(url, [{ data: "2", terminal: true }]);
      assert.ok(id > old);
      const events = await viewer.rest();
      assert.deepEqual(events.map((event) => [event.type, event.id]), [["message", old], ["reset", null], ["message", id]]);
      const back = await readAll(`${url}/sse`, { lastEventId: old });
      assert.deepEqual(back.map((event) => [event.type, event.id]), [["reset", null], ["message", id]]);
    });
  }

  test("an object has one connection for all its viewers, a Worker one for each, and none stays", async () => {
    const viewers = [];
    const watch = async (kind, count) => {
      for (let number = 0; number < count; number += 1) {
        viewers.push(await open(`${server.url}/${kind}/many-${number % 3}/sse`));
        await viewers.at(-1).untilComment();
      }
    };
    const connected = async () => (await redis.connections()).length;
    // Those of earlier viewers end a moment after their streams.
    await until(async () => `there is only the object's: ${await connected()}`, async () => (await connected()) <= 1);
    await watch("hub", 12);
    assert.equal(await connected(), 1);
    await watch("redis", 5);
    assert.equal(await connected(), 6);
    const [id] = await dispatch(`${server.url}/redis/many-0`, [{ data: "1" }]);
    for (const viewer of viewers.filter((_, number) => [0, 3, 6, 9, 12, 15].includes(number))) {
      assert.equal((await viewer.next()).id, id);
    }
    for (const viewer of viewers) viewer.close();
    // The server notices at a write that the viewer has gone.
    for (;;) {
      for (const name of ["many-0", "many-1", "many-2"]) await dispatch(`${server.url}/hub/${name}`, [{ data: "2" }]);
      if ((await redis.connections()).length === 1) break;
    }
  });

  test("without Redis: 503 with Retry-After, and nothing is stored", async () => {
    await redis.kill();
    for (const kind of ["redis", "hub"]) {
      const url = `${server.url}/${kind}/down`;
      const refused = await fetch(`${url}/sse`);
      assert.equal(refused.status, 503);
      assert.equal(refused.headers.get("retry-after"), "1");
      assert.match(await refused.text(), /^[^\n]+\n$/);
      const response = await fetch(url, { method: "POST", body: JSON.stringify([{ type: "message", data: "1" }]) });
      assert.equal(response.status, 503);
      assert.deepEqual(await response.json(), { kind: "Unreachable", mayHaveBeenStored: false });
    }
    // A client that waits for events also waits until Redis is back.
    const sources = ["redis", "hub"].map((kind) => new EventSource(`${server.url}/${kind}/down/sse`));
    const got = sources.map((source) => new Promise((resolve, reject) => {
      source.addEventListener("message", ({ data }) => resolve(data));
      source.addEventListener("error", () => source.readyState === EventSource.CLOSED && reject(new Error("it gave up")));
    }));
    await Promise.all(sources.map((source) => new Promise((resolve) => source.addEventListener("open", resolve))));
    await redis.start();
    for (const kind of ["redis", "hub"]) await dispatch(`${server.url}/${kind}/down`, [{ data: "1" }]);
    assert.deepEqual(await Promise.all(got), ["1", "1"]);
    for (const source of sources) source.close();
  });

  test("Redis is killed under streams and comes back: nothing is lost", async () => {
    const tails = [];
    for (const kind of ["redis", "hub"]) {
      const tail = new Tail(() => `${server.url}/${kind}/killed/sse`);
      await dispatch(`${server.url}/${kind}/killed`, [{ data: `"${kind} 1"` }]);
      tails.push(tail);
    }
    for (const tail of tails) await tail.until(2);
    await redis.kill();
    await redis.start();
    await dispatch(`${server.url}/redis/killed`, [{ data: "3" }, { data: "4", terminal: true }]);
    for (const tail of tails) {
      await tail.rest();
      assert.deepEqual(tail.events.map(({ json }) => json), ["redis 1", "hub 1", 3, 4]);
    }
  });
});
