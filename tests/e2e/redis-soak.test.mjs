// Several axum servers and a Worker on one Redis, clients that move between them, and connections
// to Redis that are killed at random: every client gets every event once, in order.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { serveAxum } from "./lib/axum.mjs";
import { Tail, dispatch } from "./lib/log.mjs";
import { seeded } from "./lib/proxy.mjs";
import { NEEDS_REDIS, startRedis } from "./lib/redis.mjs";
import { serve } from "./lib/wrangler.mjs";

const CLIENTS = 18;
const WRITERS = 4;
const EVENTS = 40; // of each writer

describe("servers that share a Redis", NEEDS_REDIS, () => {
  let redis;
  let worker;
  let axums = [];
  before(async () => {
    redis = await startRedis();
    worker = await serve({ vars: { REDIS_URL: redis.url } });
    axums = await Promise.all([1, 2].map(() => serveAxum({ REDIS_URL: redis.url })));
  });
  after(async () => {
    await Promise.all(axums.map((axum) => axum.kill()));
    await worker?.stop();
    await redis?.stop();
  });

  for (const seed of [1, 2]) {
    test(`every client is exact, seed ${seed}`, async (context) => {
      const log = `soak-${seed}`;
      const servers = [...axums.map(({ url }) => `${url}/${log}`), `${worker.url}/redis/${log}`, `${worker.url}/hub/${log}`];
      const random = seeded(seed);
      const any = (list) => list[Math.floor(random() * list.length)];
      const pause = (limit) => new Promise((resolve) => setTimeout(resolve, random() * limit));
      // The log does not exist for a reader before it has an event.
      const [first] = await dispatch(`${worker.url}/redis/${log}`, [{ data: '"first"' }]);

      const tails = Array.from({ length: CLIENTS }, () => new Tail(() => `${any(servers)}/sse`));
      const reading = tails.map((tail) => tail.rest());
      let isOver = false;
      let kills = 0;
      const disturbing = (async () => {
        while (!isOver) {
          if (await redis.killConnection(random)) kills += 1;
          any(tails).hop();
          await pause(40);
        }
      })();

      const known = new Map();
      const write = async (writer) => {
        for (let number = 0; number < EVENTS; number += 1) {
          const data = JSON.stringify(`${writer}.${number}`);
          known.set(JSON.parse(data), await append(any(servers), data));
          await pause(20);
        }
      };
      await Promise.all(Array.from({ length: WRITERS }, (_, writer) => write(writer)));
      isOver = true;
      await disturbing;
      const [last] = await dispatch(`${worker.url}/redis/${log}`, [{ data: '"last"', terminal: true }]);
      await Promise.all(reading);

      const events = tails[0].events.map(({ id, json }) => [id, json]);
      assert.deepEqual(events.map(([id]) => id), Array.from({ length: last - first + 1 }, (_, index) => first + index));
      for (const tail of tails) assert.deepEqual(tail.events.map(({ id, json }) => [id, json]), events);
      for (const [data, id] of known) {
        const ids = events.filter(([, json]) => json === data).map(([id]) => id);
        // If the answer to an append was lost, nobody knows whether it was stored.
        if (id === undefined) assert.ok(ids.length <= 1, `${data}: ${ids}`);
        else assert.deepEqual(ids, [id], data);
      }
      const connections = tails.reduce((sum, tail) => sum + tail.connections, 0);
      context.diagnostic(`${events.length} events, ${kills} kills, ${connections} connections of ${CLIENTS} clients`);
      assert.ok(kills > 0 && connections > CLIENTS);
      assert.doesNotMatch(worker.log, /Uncaught|panicked/);
    });
  }
});

/** Returns the id, or undefined if the server does not know whether the event was stored. */
async function append(url, data) {
  const isWorker = /\/(redis|hub)\//.test(url);
  const body = isWorker ? JSON.stringify([{ type: "message", data, key: data }]) : data;
  const response = await fetch(url, { method: "POST", body });
  const answer = await response.text();
  if (response.status === 503) return undefined;
  assert.ok(response.ok, `${url}: ${response.status} ${answer}`);
  return isWorker ? JSON.parse(answer)[0] : JSON.parse(answer).id;
}
