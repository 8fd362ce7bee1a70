// The soak for less than a minute: see docs/reliability.md. `npm run soak` does it for an hour.
import assert from "node:assert/strict";
import net from "node:net";
import { test } from "node:test";
import { slope, slopeAtMost } from "./lib/soak/memory.mjs";
import { Pending } from "./lib/soak/pending.mjs";
import { planRound } from "./lib/soak/plan.mjs";
import { playRound } from "./lib/soak/round.mjs";
import { NEEDS_REDIS, Redis } from "./lib/redis.mjs";
import { grown, soak } from "./lib/soak/soak.mjs";

test("the same seed plans the same runs, viewers and faults, another seed others", () => {
  const plan = (seed) => [0, 1, 2].map((number) => planRound(seed, number));
  assert.deepEqual(plan(17), plan(17));
  assert.notDeepEqual(plan(17), plan(18));
  assert.notDeepEqual(planRound(17, 0).runs[0].viewers, planRound(17, 1).runs[0].viewers);
});

test("every fault and every kind of viewer comes up in a hundred rounds", () => {
  const rounds = Array.from({ length: 100 }, (_, number) => planRound(1, number));
  const kinds = (list) => [...new Set(list)].sort();
  assert.equal(kinds(rounds.flatMap(({ runs }) => runs.map(({ fault }) => fault.what))).length, 8);
  assert.equal(kinds(rounds.flatMap(({ strikes }) => strikes.map(({ what }) => what))).length, 5);
  const viewers = rounds.flatMap(({ runs, logs }) => [...runs, ...logs].flatMap(({ viewers }) => viewers.map(({ kind }) => kind)));
  assert.deepEqual(kinds(viewers), ["cutter", "faithful", "hopper", "staller", "tail", "vanisher"]);
});

/** Samples of an hour, one a minute, of a server whose memory, files and sockets go so. */
const samples = ({ memory = () => 100e6, files = () => 20, every = 1 / 60 }) =>
  Array.from({ length: 60 }, (_, number) => ({ at: number * every, viewers: number * 100, places: { server: { memory: memory(number), files: files(number), sockets: 3 } } }));
/** Noise of 20 MB that has no direction. */
const noisy = (number) => ((number * 7919) % 41) * 0.5e6;

test("what grows is told from what is noisy", () => {
  assert.equal(slopeAtMost(1), 1);
  assert.equal(slopeAtMost(2), 1);
  assert.ok(slopeAtMost(1 / 60) > 400);
  assert.equal(slope([[0, 5], [1, 6], [2, 700], [3, 8]]), 1);
  assert.deepEqual(grown(samples({})).wrong, []);
  assert.match(grown(samples({ memory: (number) => 100e6 + number * 40e3 })).wrong.join(), /memory of the process grows by 2\.40 MB an hour, and may by/);
  assert.match(grown(samples({ memory: (number) => 100e6 + noisy(number) + number * 1e6 })).wrong.join(), /grows by \d+/);
  assert.match(grown(samples({ files: (number) => 20 + number })).wrong.join(), /there were \d+ files, and are \d+/);
  // In a minute the same noise says less.
  assert.deepEqual(grown(samples({ memory: (number) => 100e6 + noisy(number), every: 1 / 3600 })).wrong, []);
  assert.match(grown(samples({ memory: (number) => 100e6 + number * 1e6, every: 1 / 3600 })).wrong.join(), /grows/);
  const heaps = (heap) => samples({}).map((sample, number) => ({ ...sample, places: { "Workers, here": { ...sample.places.server, heap: heap(number) } } }));
  assert.deepEqual(grown(heaps(() => 3e6)).wrong, []);
  assert.match(grown(heaps((number) => 3e6 + number * 40e3)).wrong.join(), /memory of the isolate after collections grows by 2\.\d+ MB/);
  assert.match(grown(heaps((number) => (number % 3 === 0 ? 3e6 : undefined))).wrong.join(), /was told in 15 rounds of 45 only/);
  // What was before a crash is another process.
  const crashed = (at) => samples({ memory: (number) => (number < at ? 10e6 : 200e6) }).map((sample, number) => ({ ...sample, places: { server: { ...sample.places.server, pid: number < at ? 1 : 2 } } }));
  assert.deepEqual(grown(crashed(30)).wrong, []);
  assert.match(grown(crashed(58)).text, /too short a time/);
  assert.match(grown([]).wrong.join(), /too few/);
});

test("a round that hangs says for what it waits", async () => {
  let answer;
  const places = { redis: { connections: () => new Promise((resolve) => (answer = resolve)) } };
  const done = [];
  const tally = { done: (what) => done.push(what), takeWrong: () => [] };
  const pending = new Pending();
  const round = playRound({ runs: [], logs: [], strikes: [{ what: "connections to Redis are cut", after: 0 }] }, places, tally, pending);
  await assert.rejects(pending.within(200, round, "round 23"), /^Error: round 23 has no answer after 0\.2 s\. What is pending:\n  connections to Redis are cut: which there are, for 0\.\d s$/);
  answer([]);
  assert.deepEqual(await round, []);
  assert.deepEqual(done, ["connections to Redis are cut"]);
  assert.deepEqual(pending.lines(), []);
});

test("steps are named with how far they are, the oldest first, until they end, also with an error", async () => {
  const pending = new Pending();
  let [position, fail] = [3, undefined];
  const first = pending.step(() => `is at ${position}`, new Promise((_, reject) => (fail = reject)));
  const second = pending.step("reads", new Promise(() => {}));
  position = 4;
  assert.deepEqual(pending.lines(Date.now()).map((line) => line.replace(/[\d.]+ s$/, "some s")), ["is at 4, for some s", "reads, for some s"]);
  fail(new Error("cut"));
  await assert.rejects(first, /cut/);
  assert.match(pending.lines().join(), /^reads, for [\d.]+ s$/);
  void second;
});

test("a Redis that ends before it answers is no Redis that is waited for", async () => {
  const server = net.createServer((socket) => socket.once("data", () => socket.end())).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const redis = new Redis(server.address().port);
  await assert.rejects(redis.say("PING"), /Redis gave no answer to PING/);
  await redis.stop();
  server.close();
});

const SECONDS = 35;

test("runs, viewers and faults at random, over all servers", NEEDS_REDIS, async (context) => {
  const seed = Number(process.env.SSETARGET_SOAK_SEED ?? Math.floor(Date.now() / 1000));
  context.diagnostic(`SSETARGET_SOAK_SEED=${seed}`);
  const wrong = await soak({ milliseconds: SECONDS * 1_000, seed, small: true, say: (text) => context.diagnostic(text) });
  assert.deepEqual(wrong, []);
});
