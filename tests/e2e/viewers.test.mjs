// Many viewers of one run, coming and going at any time: each gets every event once, in order.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Records } from "./lib/checker.mjs";
import { answer, isWaiting, serve, startRun } from "./lib/demo.mjs";
import { open, readAll } from "./lib/sse.mjs";

let demo;
before(async () => {
  demo = await serve();
});
after(() => demo?.stop());

const raw = (events) => events.map((event) => event.raw);

test("twenty viewers of a live run, late ones, and one at every id", async () => {
  const id = await startRun(demo.url);
  const url = `${demo.url}/${id}/sse`;
  const early = await Promise.all(Array.from({ length: 20 }, () => open(url)));
  // Each reads at its own pace: some are fast, some are slow.
  const seen = early.map((viewer) => viewer.until(isWaiting));

  // Half of them come during the run, one after every event of the log.
  const first = await open(url);
  const midway = [];
  for (;;) {
    const event = await first.next();
    midway.push({ from: event.id, viewer: await open(url, { lastEventId: event.id }) });
    if (isWaiting(event)) break;
  }
  await Promise.all(seen);
  const late = await Promise.all(Array.from({ length: 5 }, () => open(url)));
  await answer(demo.url, id);
  const events = await first.rest();
  const all = raw(events);
  const records = new Records();
  const transcript = async (name, from, viewer) => records.transcript(id, name, { from, events: await viewer.rest() });

  for (const viewer of [...early, ...late]) assert.deepEqual(raw(await viewer.rest()), all);
  for (const { from, viewer } of midway) assert.deepEqual(raw(await viewer.rest()), all.slice(from), `behind ${from}`);
  for (const [number, viewer] of [...early, ...late].entries()) await transcript(`viewer ${number}`, undefined, viewer);
  for (const { from, viewer } of midway) await transcript(`behind ${from}`, from, viewer);

  // Viewers also come after every event once the run is over; after the last event there is nothing
  // more.
  for (let from = 1; from < all.length; from += 1) {
    assert.deepEqual(raw(await readAll(url, { lastEventId: from })), all.slice(from), `behind ${from}`);
  }
  assert.equal((await fetch(url, { headers: { "last-event-id": `${all.length}` } })).status, 204);
  records.connected(id, "last", all.length, 204);
  records.stored(id, events);
  records.check();
});

test("viewers that leave after every number of events and come back", async () => {
  const id = await startRun(demo.url);
  const url = `${demo.url}/${id}/sse`;
  const whole = await open(url);
  // Some break off in the replay, some in live events, some in the middle of an event's bytes.
  const strollers = [1, 2, 3, 5, 7, 11].map((stride) => comeAndGo(url, stride));
  await whole.until(isWaiting);
  await answer(demo.url, id);
  const all = raw(await whole.rest());
  for (const events of await Promise.all(strollers)) assert.deepEqual(raw(events), all);
  for (const stride of [1, 4, 9]) assert.deepEqual(raw(await comeAndGo(url, stride)), all);
});

test("runs do not see each other's events", async () => {
  const params = (item) => ({ workMs: 20, item });
  const [a, b] = await Promise.all(["a", "b"].map((item) => startRun(demo.url, { id: item, params: params(item) })));
  const [one, other] = await Promise.all([a, b].map((id) => open(`${demo.url}/${id}/sse`)));
  await Promise.all([one.until(isWaiting), other.until(isWaiting)]);
  await answer(demo.url, a);
  const events = await one.rest();
  assert.deepEqual([...new Set(events.flatMap(({ json }) => json.message?.[0] ?? []))], ["a"]);
  assert.ok(other.events.every(({ json }) => json.message?.[0] !== "a"));
  await answer(demo.url, b);
  assert.equal((await other.rest()).length, events.length);
});

/** Takes `stride` events, disconnects, and comes back after the last one, until it gets a 204. */
async function comeAndGo(url, stride) {
  const events = [];
  for (;;) {
    const lastEventId = events.at(-1)?.id;
    let viewer;
    try {
      viewer = await open(url, { lastEventId });
    } catch (error) {
      assert.match(error.message, /: 204 /);
      return events;
    }
    for (let taken = 0; taken < stride; taken += 1) {
      const event = await viewer.next();
      if (event === null) break;
      events.push(event);
    }
    viewer.close();
  }
}
