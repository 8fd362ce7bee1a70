// The soak: rounds of runs, logs, viewers and faults for as long as asked. After each round everything is checked, and
// while nobody watches, what the servers have is measured.
import { median, slope, slopeAtMost } from "./memory.mjs";
import { planRound } from "./plan.mjs";
import { startPlaces } from "./places.mjs";
import { playRound } from "./round.mjs";
import { Pending } from "./pending.mjs";
import { pause } from "./viewer.mjs";

/** So many rounds at least, since less say nothing about what grows. */
const ROUNDS_AT_LEAST = 4;

/** After so many milliseconds a round hangs: what it does has limits of its own, which are shorter. */
const ROUND_AT_MOST = 300_000;

/**
 * Soaks for so many milliseconds of rounds, `small` ones for less than some minutes, with faults that `seed` decides.
 * `say` gets lines of text. Resolves to what is wrong, as lines of text: nothing, if all is well.
 */
export async function soak({ milliseconds, seed, small = false, say = console.log }) {
  const tally = new Tally();
  const places = await startPlaces();
  const samples = [];
  const wrong = [];
  const pending = new Pending();
  const started = Date.now();
  let number = 0;
  // Also on the way, so that one that is stopped before its time has said something.
  const report = () => {
    say(`seed ${seed}: ${number} rounds in ${((Date.now() - started) / 60_000).toFixed(1)} minutes; ${tally.summary()}`);
    say(`runs that ended: ${list(tally.ended)}`);
    say(`faults: ${list(tally.faults)}`);
    const crashes = Object.values(places.workers).flatMap((server) => server.log.match(/The Workers runtime crashed unexpectedly/g) ?? []).length;
    if (crashes > 0) say(`the local runtime crashed by itself ${crashes} times, and was started again`);
    say(`refusals: ${list(tally.refusals) || "none"}`);
    const growth = grown(samples);
    say(growth.text);
    return growth;
  };
  try {
    while ((Date.now() - started < milliseconds || number < ROUNDS_AT_LEAST) && wrong.length === 0) {
      const round = playRound(planRound(seed, number, { small }), places, tally, pending);
      wrong.push(...(await pending.within(ROUND_AT_MOST, round, `round ${number}`)));
      number += 1;
      // What viewers leave behind is gone a moment after them.
      await pause(500);
      samples.push({ at: (Date.now() - started) / 3_600_000, viewers: tally.viewers, places: await pending.within(ROUND_AT_MOST, places.measure(pending), `the measuring after round ${number}`) });
      if (number % 20 === 0) report();
    }
    for (const server of Object.values(places.workers)) {
      if (/panicked at/.test(server.log)) wrong.push(`a Worker panicked: ${server.log.match(/.*panicked at.*/)[0]}`);
    }
  } catch (error) {
    report();
    for (const server of Object.values(places.workers)) say(server.log.slice(-3_000).replaceAll(/.*wrangler:info.*\n/g, ""));
    throw error;
  } finally {
    await pending.within(ROUND_AT_MOST, pending.step("the servers are stopped", places.stop()), "the end of the soak");
  }
  const growth = report();
  // A promise that was broken ended it early, perhaps too early to say what grows.
  return wrong.length > 0 ? wrong : growth.wrong;
}

/** Whether anything grows over these samples. The first quarter is warming up. */
export function grown(samples) {
  const kept = samples.slice(Math.ceil(samples.length / 4));
  if (kept.length < 3) return { text: "too few rounds to say whether anything grows", wrong: ["there were too few rounds to say whether anything grows"] };
  const [first, last] = [kept[0], kept.at(-1)];
  const hours = last.at - first.at;
  const most = slopeAtMost(hours);
  // What one viewer in a thousand leaves behind. An object has its files open for ten seconds after it was last asked, and
  // in front of a Worker wrangler's proxy keeps connections for a while.
  const ofViewers = (last.viewers - first.viewers) / 1_000;
  const filesMost = (place) => Math.max(ofViewers, place.startsWith("Workers") ? 150 : 4);
  const wrong = [];
  const lines = Object.keys(first.places).flatMap((place) => {
    // A runtime that crashed and was started again begins anew.
    const { pid } = last.places[place];
    const own = kept.filter((sample) => sample.places[place].pid === pid);
    if (own.length < 3) return [`${place}: crashed, and runs for too short a time to say whether it grows`];
    const of = (what, some) => some.map((sample) => sample.places[place][what]);
    const lines = Object.entries(JUDGED(place)).flatMap(([what, isJudged]) => {
      const points = own.map((sample) => [sample.at, sample.places[place][what]]).filter(([, bytes]) => bytes !== undefined);
      if (points.length < 3 || points.length < own.length / 2) {
        if (!isJudged) return [];
        wrong.push(`${place}: the ${NAMES[what]} was told in ${points.length} rounds of ${own.length} only`);
        return `${place}: the ${NAMES[what]} is not known`;
      }
      const perHour = slope(points.map(([hour, bytes]) => [hour, bytes / 1e6]));
      if (isJudged && perHour > most) wrong.push(`${place}: the ${NAMES[what]} grows by ${perHour.toFixed(2)} MB an hour, and may by ${most.toFixed(2)}`);
      return `${place}: ${NAMES[what]} ${mega(points[0][1])} to ${mega(points.at(-1)[1])} MB, ${perHour.toFixed(2)} MB an hour`;
    });
    const third = Math.ceil(own.length / 3);
    const [early, late] = [own.slice(0, third), own.slice(-third)];
    const counted = ["files", "sockets"].map((what) => {
      const [before, after] = [median(of(what, early)), median(of(what, late))];
      if (after - before > filesMost(place)) wrong.push(`${place}: there were ${before} ${what}, and are ${after}`);
      return `${before} to ${after} ${what}`;
    });
    return [...lines, `${place}: ${counted.join(", ")}`];
  });
  return { text: `at rest, after warming up, over ${(60 * hours).toFixed(1)} minutes (memory may grow by ${most.toFixed(2)} MB an hour):\n  ${lines.join("\n  ")}`, wrong };
}

const NAMES = { memory: "memory of the process", heap: "memory of the isolate after collections", wasm: "size of its WebAssembly memory" };

/** The process of a Worker is the whole local runtime with its engine of workflows; what is ours there is in the isolate. */
const JUDGED = (place) => (place.startsWith("Workers") ? { heap: true, wasm: false, memory: false } : { memory: true });

const mega = (bytes) => (bytes / 1e6).toFixed(1);
const list = (counts) => Object.entries(counts).map(([name, count]) => `${count} × ${name}`).join(", ");

/** What was done so far. */
class Tally {
  runs = 0;
  logs = 0;
  viewers = 0;
  connections = 0;
  events = 0;
  appends = 0;
  ended = {};
  faults = {};
  refusals = {};
  /** The newest ids of logs that last over rounds. */
  heads = {};
  #wrong = [];

  done(fault) {
    this.faults[fault] = (this.faults[fault] ?? 0) + 1;
  }

  refuse(status) {
    this.refusals[status] = (this.refusals[status] ?? 0) + 1;
  }

  wrong(text) {
    this.#wrong.push(text);
  }

  takeWrong() {
    return this.#wrong.splice(0);
  }

  summary() {
    return `${this.runs} runs and ${this.logs} logs, ${this.viewers} viewers with ${this.connections} connections, who got ${this.events} events`;
  }
}
