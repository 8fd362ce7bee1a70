// Plays a round of the soak's plan, and has everything checked that anybody saw.
import { Records } from "../checker.mjs";
import { Run, json } from "../script.mjs";
import { open, readAll } from "../sse.mjs";
import { Late, within } from "./pending.mjs";
import { Viewer, pause } from "./viewer.mjs";

/** After that a viewer or a run that has not come to its end is stuck, which is a fault. */
const PATIENCE = 90_000;

/** After that a strike has failed: viewers would give up soon. */
const STRIKE_AT_MOST = 80_000;

/** After that a runtime that was killed is not waited for: it is killed once more. */
const START_AT_MOST = 45_000;

/**
 * Plays it; resolves once every viewer has been told the end, to what broke a promise. `pending` has every step of it that
 * is under way.
 */
export async function playRound(plan, places, tally, pending) {
  const alive = new Set();
  const [found] = await Promise.all([
    Promise.all([...plan.runs.map((run) => playRun(run, places, tally, alive, pending)), ...plan.logs.map((log) => playLog(log, places, tally, pending))]),
    ...plan.strikes.map((each) => strike(each, places, tally, alive, pending)),
  ]);
  return [...found.flat(), ...tally.takeWrong()];
}

async function playRun({ place, workflow, id, ops, fault, viewers }, places, tally, alive, pending) {
  const server = places.workers[place];
  const run = new Run(server, workflow, id);
  const log = `${place}: ${workflow} ${id} (${fault.what})`;
  const step = (what, promise) => pending.step(`${log}: ${what}`, promise);
  const until = Date.now() + PATIENCE;
  await step("is created", persist(until, () => json(`${server.url}/${workflow}`, { method: "POST", body: JSON.stringify({ id, params: { ops } }) })));
  alive.add(run);
  tally.runs += 1;

  const records = new Records();
  const view = (name, plan, hear) => new Viewer({ name, log, url: () => run.sse, plan, records, tally, hear });
  let [heard, struck, goes, restarted, moved] = [0, null, false, false, Date.now()];
  const driver = view("driver", { kind: "faithful" }, ({ type, json: { taskId } }) => {
    heard += 1;
    moved = Date.now();
    if (type === "restarted") restarted = true;
    if (type === "started" && taskId === "answer-1.waitForEvent") {
      goes = true;
      run.event("go").catch(() => {}); // sent again below
    }
    if (heard === fault.behind) struck = step(`after ${heard} events: ${fault.what}`, act(run, fault.what, tally));
  });
  const all = [driver, ...viewers.map((plan, index) => view(`${plan.kind} ${index}`, plan))];
  const stop = setTimeout(() => all.forEach((viewer) => viewer.stop()), PATIENCE);
  // An engine that was killed comes back with an event, and one that was paused a moment too late, too.
  const nudge = setInterval(() => {
    if (Date.now() - moved < 2_500) return;
    run.revive().catch(() => {});
    if (goes) run.event("go").catch(() => {});
    if (fault.what === "pause") unpause(run).catch(() => {});
  }, 1_000);

  const driving = (async () => {
    let isOver = await driver.follow();
    await struck;
    // It may have been told the end of the run before the restart; a restart before any step had ended is none.
    const patience = Date.now() + 8_000;
    while (fault.what.startsWith("restart") && struck && !restarted && Date.now() < patience) {
      await pause(300);
      isOver = await driver.follow();
    }
    return (await driver.follow()) && isOver;
  })();
  const others = all.slice(1).map((viewer) => pause(viewer.plan.arrives).then(() => viewer.follow()));
  const followed = await Promise.all([driving, ...others].map((following, index) => pending.step(() => all[index].at(), following)));
  clearTimeout(stop);
  clearInterval(nudge);
  alive.delete(run);
  tally.viewers += all.length;
  const stuck = all.filter((_, index) => !followed[index]).map(({ name, position }) => `${log}: ${name} was not told the end, and is at ${position}`);
  if (stuck.length > 0) return stuck;

  const state = await step("the platform says how it ended", endOf(run, until));
  const stored = await step("its log is read", persist(until, () => readAll(run.sse)));
  // What the platform says of a run that was cut short depends on where that was.
  const platform = state === "terminated" ? undefined : await step("the platform's log is read", persist(until, () => run.platform()));
  records.stored(log, stored, platform);
  tally.ended[state] = (tally.ended[state] ?? 0) + 1;
  return step("is checked", records.broken());
}

/** Does this to a run; what the platform refuses, since the run is over for example, is not done. */
async function act(run, what, tally) {
  const rpc = (place, method) => fetch(`${run.server.url}/${run.workflow}/${run.id}${place}/rpc/${method}`, { method: "POST" }).then((response) => response.text());
  const acts = {
    none: () => {},
    pause: async () => {
      await run.act("pause");
      // A step that is under way ends before. Where the run ended in the meantime, it will not be paused.
      for (let asked = 0; asked < 100 && (await run.status()).state === "waitingForPause"; asked += 1) await pause(50);
      await run.act("resume");
      await run.revive();
    },
    terminate: () => run.act("end"),
    "terminate silently": () => run.act("terminate"),
    restart: () => run.act("again"),
    "restart silently": () => run.act("restart"),
    "object goes down": () => rpc("", "go_down"),
    "relay goes down": () => rpc("~1", "go_down"),
  };
  try {
    await within(20_000, acts[what]());
    tally.done(what);
  } catch {
    tally.done(`${what}, refused`);
  }
}

/** Resumes a run that is paused: the runtime may be killed after it paused the run and before it said so. */
async function unpause(run) {
  if ((await run.status()).state === "paused") await run.act("resume");
}

async function playLog({ place, name, writers, events, viewers }, { axums }, tally, pending) {
  const servers = place === "redis" ? [axums.redis, axums["redis, killed"]] : [axums[place]];
  const log = `${place}: ${name}`;
  const step = (what, promise) => pending.step(`${log}: ${what}`, promise);
  const until = Date.now() + PATIENCE;
  const records = new Records();
  let [turn, greatest] = [0, 0];
  const any = () => servers[(turn += 1) % servers.length].url;
  const append = (data, terminal) => step("an append", appendNow(data, terminal));
  const appendNow = async (data, terminal) => {
    const after = greatest;
    const type = terminal ? "last" : "note";
    const fact = { type, data, terminal };
    let answer = "unknown";
    try {
      const response = await fetch(`${any()}/${name}?type=${type}&terminal=${terminal}`, { method: "POST", body: data, signal: AbortSignal.timeout(20_000) });
      const text = await response.text();
      if (response.status === 201) {
        const { id } = JSON.parse(text);
        greatest = Math.max(greatest, id);
        answer = { stored: [id] };
      } else if (response.status !== 503) tally.wrong(`${log}: an append was answered ${response.status} ${text}`);
    } catch {
      // the server was killed, or hangs
    }
    tally.appends += 1;
    records.add(log, { append: { events: [fact], answer, after } });
    return answer !== "unknown";
  };
  const appendLast = async () => {
    let number = 0;
    while (!(await append(JSON.stringify(`last ${name} ${started} ${(number += 1)}`), true)) && Date.now() < until) await pause(200);
  };
  // A log that goes on for ever is followed from where it stood.
  const started = Date.now();
  const begins = place === "sqlite" ? (tally.heads[name] ??= await step("is filled", within(PATIENCE, prefill(`${axums.sqlite.url}/${name}`), `${log}, which is filled,`))) : 0;
  while (!(await append(JSON.stringify(`first ${name} ${started}`), false)) && Date.now() < until) await pause(200);
  tally.logs += 1;

  const all = viewers.map((plan, index) => new Viewer({ name: `${plan.kind} ${index}`, log, url: () => `${any()}/${name}/sse`, plan, records, tally, after: begins }));
  const stop = setTimeout(() => all.forEach((viewer) => viewer.stop()), PATIENCE);
  const following = all.map((viewer) => pending.step(() => viewer.at(), pause(viewer.plan.arrives).then(() => viewer.follow())));
  await Promise.all(
    Array.from({ length: writers }, async (_, writer) => {
      // Appends to a server that hangs have no answer for a long time, each.
      for (let number = 0; number < events && Date.now() < until; number += 1) {
        await append(JSON.stringify(`${started} ${writer}.${number} ${"x".repeat((number * 37) % 500)}`), false);
        await pause((number * 61) % 200);
      }
    }),
  );
  await appendLast();
  const followed = await Promise.all(following);
  clearTimeout(stop);
  tally.viewers += all.length;
  const stuck = all.filter((_, index) => !followed[index]).map(({ name, position }) => `${log}: ${name} was not told the end, and is at ${position}`);
  if (stuck.length > 0) return stuck;

  const stored = await step("is read", persist(until, () => readAll(`${any()}/${name}/sse`, { lastEventId: begins || undefined })));
  records.add(log, { stored: { events: stored.map(({ id, type, data, raw }) => ({ id, type, data, raw, terminal: type === "last" })) } });
  records.add(log, { whole: null });
  if (place === "sqlite") tally.heads[name] = greatest;
  return step("is checked", records.broken());
}

/**
 * Fills a log that lasts with more than SQLite keeps of it in memory, which would otherwise look like something that
 * grows. Resolves to its newest id.
 */
async function prefill(url) {
  let id = 0;
  for (let number = 0; number < 200; number += 1) {
    const response = await fetch(`${url}?type=note`, { method: "POST", body: JSON.stringify(`${number} ${"x".repeat(16_000)}`) });
    ({ id } = await response.json());
  }
  const stream = await open(`${url}/sse`);
  await stream.until((event) => event.id === id);
  stream.close();
  return id;
}

/** How the run ended, once the platform says so. An engine that was killed as it ended is told to go on. */
async function endOf(run, until) {
  for (let asked = 1; ; asked += 1) {
    const { state } = await persist(until, () => run.status());
    if (["complete", "errored", "terminated"].includes(state)) return state;
    if (Date.now() > until) throw new Error(`${run.id} has told its end, and is ${state}`);
    if (asked % 20 === 0) run.revive().catch(() => {});
    await pause(100);
  }
}

async function strike({ after, what }, { workers, axums, redis }, tally, alive, pending) {
  await pause(after);
  const step = (how, promise) => pending.step(`${what}: ${how}`, promise);
  const again = async (axum) => {
    await step("is killed", axum.kill());
    await pause(100);
    await step("is started", axum.start());
  };
  const strikes = {
    async "kill -9 of the runtime"() {
      await step("is killed", workers.killed.kill());
      try {
        await step("is started", within(START_AT_MOST, workers.killed.start()));
      } catch (error) {
        if (!(error instanceof Late)) throw error;
        tally.done("the runtime did not start, and was killed once more");
        await step("is killed once more", workers.killed.kill());
        await step("is started once more", workers.killed.start());
      }
      for (const run of alive) if (run.server === workers.killed) run.revive().catch(() => {});
    },
    "kill -9 of axum with SQLite": () => again(axums["sqlite, killed"]),
    "kill -9 of one of two on a Redis": () => again(axums["redis, killed"]),
    async "kill -9 of Redis"() {
      await step("is killed", redis.kill());
      await pause(300);
      await step("is started", redis.start());
    },
    async "connections to Redis are cut"() {
      const ids = await step("which there are", redis.connections().catch(() => []));
      for (const id of ids) await step(`number ${id}`, redis.say("CLIENT", "KILL", "ID", id).catch(() => {}));
    },
  };
  await within(STRIKE_AT_MOST, strikes[what](), what);
  tally.done(what);
}

/** Does it until it is done: servers are killed in between. */
async function persist(until, act) {
  for (;;) {
    try {
      return await within(20_000, act());
    } catch (error) {
      if (error.status === 409) return undefined; // it was done, and the answer was lost
      if (Date.now() > until) throw error;
      await pause(200);
    }
  }
}
