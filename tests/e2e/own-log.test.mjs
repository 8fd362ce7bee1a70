// A log in the user's own Durable Object: `SseTarget` over its SQLite, and the suite for stores in the object.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { harness } from "./lib/harness.mjs";
import { open, readAll } from "./lib/sse.mjs";

let server;
before(async () => {
  server = await harness();
});
after(() => server?.stop());

test("an object's SQLite, and memory in a Worker, keep the promise of stores", async () => {
  const response = await fetch(`${server.url}/own/contract/contract`);
  assert.deepEqual([response.status, await response.text()], [200, "the promise is kept"], String(server.log()));
});

test("an object of one's own streams its log, and goes on after it was evicted", async () => {
  const url = `${server.url}/own/room`;
  const say = async (text) => {
    const response = await fetch(`${url}/dispatch`, { method: "POST", body: text });
    assert.equal(response.status, 200);
    return response.text();
  };
  const said = (stream) => stream.map(({ id, type, data }) => `${id} ${type} ${JSON.parse(data).text}`);

  assert.equal(await say("hello"), "Stored(EventId(1))");
  assert.equal(await say("you\nthere"), "Stored(EventId(2))");
  // An object with connections cannot be evicted, so this comes first.
  await server.evict("OwnLog", "room");

  const all = await open(`${url}/sse`);
  await all.next();
  await all.next();
  const resumed = await open(`${url}/sse`, { lastEventId: 1 });
  await resumed.next();
  await say("goodbye");
  assert.deepEqual(said(await all.rest()), ["1 said hello", "2 said you\nthere", "3 said goodbye"]);
  assert.deepEqual(said(await resumed.rest()), ["2 said you\nthere", "3 said goodbye"]);
  assert.deepEqual(await readAll(`${url}/sse`), all.events);

  const latest = await fetch(`${url}/sse?from=latest`);
  assert.deepEqual([latest.status, await latest.text()], [204, ""]);
  const bad = await fetch(`${url}/sse`, { headers: { "last-event-id": "x" } });
  assert.equal(bad.status, 400);
  const gone = await open(`${url}/sse`, { lastEventId: 9 });
  const reset = await gone.next();
  assert.deepEqual([reset.type, JSON.parse(reset.data)], ["reset", { requested: 9, oldest: 1, head: 3 }]);
  assert.equal((await gone.rest()).length, 4);
});

test("a user's own object sends to connected viewers, and keeps nothing", async () => {
  const url = `${server.url}/own/lobby`;
  const whisper = (text) => fetch(`${url}/whisper`, { method: "POST", body: text });
  await whisper("nobody hears this");
  const response = await fetch(`${url}/whispers`, { headers: { "last-event-id": "1" } });
  assert.equal(response.status, 200);
  const reader = response.body.getReader();
  let got = "";
  const until = async (end) => {
    while (!got.endsWith(end)) got += Buffer.from((await reader.read()).value).toString();
  };
  await until(":\n");
  await whisper("psst");
  await until("}\n\n");
  await whisper("goodbye");
  // The terminal event ends the stream.
  for (let read = await reader.read(); !read.done; read = await reader.read()) got += Buffer.from(read.value).toString();
  assert.equal(got.replace(/^:\n/gm, ""), 'event: said\ndata: {"text":"psst"}\n\nevent: said\ndata: {"text":"goodbye"}\n\n');
  // It is not the end for the next viewer.
  const next = await fetch(`${url}/whispers`);
  assert.equal(next.status, 200);
  await next.body.cancel();
});
