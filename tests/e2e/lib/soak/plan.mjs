// What the soak does, decided by a seed alone: the runs, their viewers, and what is done to them. Pure: the same seed
// and number give the same round, whatever happens in between.

/** Numbers from 0 to 1 that look random; other seeds that lie beside each other give others (mulberry32). */
export function dice(seed) {
  let state = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b);
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    /** A whole number from `low` to `high`. */
    between: (low, high) => low + Math.floor(random() * (high - low + 1)),
    any: (list) => list[Math.floor(random() * list.length)],
    chance: (share) => random() < share,
  };
}

/**
 * The round of this number, or a `small` one for those who have a minute:
 *
 * - `runs`: `{ place, workflow, id, ops, fault, viewers }`, runs of a workflow of tests/worker
 * - `logs`: `{ place, name, events, writers, viewers }`, logs of the axum servers
 * - `strikes`: `{ after, what }`, what is done to servers, so many milliseconds after the round has begun
 */
export function planRound(seed, number, { small = false } = {}) {
  const roll = dice(Math.imul(seed, 0x01000193) ^ Math.imul(number + 1, 0x27d4eb2f));
  const runs = [];
  for (const [place, workflows] of Object.entries(small ? FEW_RUNS : RUNS)) {
    workflows.forEach((workflow, index) => {
      const id = `soak-${number}-${index}`;
      const isLong = number % LONG === LONG - 1 && place !== "killed" && index === 0;
      const fault = { what: isLong ? "terminate silently" : roll.any(FAULTS[workflow]), behind: roll.between(4, 12) };
      const isWide = workflow === "beta";
      const size = isWide ? 6 : workflow === "crowd" ? 14 : 10;
      const viewers = crowd(roll, small ? Math.ceil(size / 2) : size, isWide ? 0.5 : 0.15);
      runs.push({ place, workflow, id, ops: ops(roll, isWide), fault, viewers });
    });
  }
  const logs = Object.entries(small ? FEW_LOGS : LOGS).flatMap(([place, count]) =>
    Array.from({ length: count }, (_, index) => ({
      place,
      name: LASTING.includes(place) ? `room-${index}` : `soak-${number}-${index}`,
      writers: roll.between(1, 3),
      events: roll.between(10, 25), // of each writer
      viewers: crowd(roll, small ? 6 : 12, 0.15),
    })),
  );
  const strikes = STRIKES.filter(({ share }) => roll.chance(share)).map(({ what }) => ({ what, after: roll.between(400, 3_000) }));
  return { number, runs, logs, strikes };
}

/** The workflows whose runs each Worker has in a round. Those of `crowd` are watched through trees of relays. */
const RUNS = {
  direct: ["alpha", "beta", "crowd", "fragile"],
  hibernating: ["alpha", "beta", "alpha", "fragile"],
  killed: ["alpha", "crowd", "fragile"],
};

const FEW_RUNS = { direct: ["alpha", "crowd"], hibernating: ["beta", "fragile"], killed: ["alpha", "crowd"] };

/** How many logs the axum servers have in a round. */
const LOGS = { sqlite: 3, "sqlite, killed": 2, redis: 4 };

const FEW_LOGS = { sqlite: 1, "sqlite, killed": 1, redis: 2 };

/** Servers that keep a log open for as long as they run: they get the same few in every round. */
const LASTING = ["sqlite"];

const ANY = ["none", "pause", "terminate", "restart", "restart silently"];
const FAULTS = {
  alpha: ANY,
  beta: ["none", "none", "pause", "restart"],
  crowd: [...ANY, "object goes down", "relay goes down"],
  fragile: [...ANY, "object goes down", "object goes down"],
};

/** In one of so many rounds: a run that is terminated and nobody tells its viewers, who learn it within a minute. */
const LONG = 12;

/** What is done to servers, and in which share of the rounds. Those that are measured are left alive. */
const STRIKES = [
  { what: "kill -9 of the runtime", share: 0.8 },
  { what: "kill -9 of axum with SQLite", share: 0.8 },
  { what: "kill -9 of one of two on a Redis", share: 0.7 },
  { what: "kill -9 of Redis", share: 0.5 },
  { what: "connections to Redis are cut", share: 0.7 },
];

/** What a run does. A wide one has more bytes than all buffers on the way to a viewer who does not read. */
function ops(roll, isWide) {
  if (isWide) {
    return [{ do: { name: "first" } }, { many: { name: "wide", steps: 150, bytes: 12_000 } }, { do: { name: "last" } }];
  }
  const retries = { limit: 3, delay: 10, backoff: "constant" };
  const some = [
    { do: { name: "flaky", attempts: [{ fail: "not yet" }], retries } },
    { group: { name: "part", ops: [{ do: { name: "inner", progress: [25, 75] } }, { do: { name: "first" } }] } },
    { sleep: { name: "nap", ms: roll.between(200, 1_200) } },
    { many: { name: "m", steps: roll.between(5, 40), bytes: roll.between(0, 2_000) } },
    { do: { name: "reports", progress: [10, 20, 30] } },
  ].filter(() => roll.chance(0.7));
  return [{ do: { name: "first", attributes: { size: 3 } } }, ...some, { sleep: { name: "rest", ms: 300 } }, { wait: { name: "answer", type: "go" } }, { do: { name: "last" } }];
}

/**
 * Viewers, by what they do:
 *
 * - `faithful`: stays until it is told that this is the end
 * - `hopper`: leaves after `stride` events, comes back after `pause` ms, and stays for twice as many the next time
 * - `cutter`: breaks off after `bytes` bytes, wherever in an event that is, and after twice as many the next time
 * - `staller`: stops reading after `stride` events, for `pause` ms
 * - `vanisher`: leaves before it has got anything, `stride` times
 * - `tail`: wants only what is new
 */
function crowd(roll, size, stalled) {
  return Array.from({ length: size }, () => {
    const kind = roll.chance(stalled) ? "staller" : roll.any(["faithful", "hopper", "hopper", "cutter", "vanisher", "tail"]);
    const arrives = roll.chance(0.5) ? roll.between(0, 200) : roll.between(200, 3_000);
    return { kind, arrives, stride: roll.between(1, 8), pause: roll.between(0, 800), bytes: roll.between(1, 3_000) };
  });
}
