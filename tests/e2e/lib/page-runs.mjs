// Runs to show and to test: lists of `[type, data]` as they are in a log.

export const DAY = 86_400_000;

/** Events of one run, with times from `start` on. */
export class Script {
  constructor(start, workflow = "order", root = "order-1.workflow") {
    this.start = start;
    this.time = start;
    this.root = root;
    this.workflow = workflow;
    this.events = [];
    this.counts = new Map();
  }

  wait(ms) {
    this.time += ms;
    return this;
  }

  begin() {
    return this.#event("started", { taskId: this.root, step: this.workflow, kind: "workflow", count: 1, parentId: null });
  }

  end(error) {
    const task = { taskId: this.root, step: this.workflow, kind: "workflow", count: 1, parentId: null };
    return this.#event(error === undefined ? "completed" : "failed", error === undefined ? task : { ...task, error });
  }

  /** Starts a task, and returns it for the calls that follow. */
  task(step, { kind = "do", parent, group = false, ...more } = {}) {
    const name = `${kind}:${step}:${group}`;
    const count = (this.counts.get(name) ?? 0) + 1;
    this.counts.set(name, count);
    const suffix = group ? ".group" : { sleep: ".sleep", sleepUntil: ".sleepUntil", waitForEvent: ".waitForEvent" }[kind] ?? "";
    const task = { taskId: `${step}-${count}${suffix}`, step, kind, count, parentId: parent?.taskId ?? this.root };
    this.#event("started", { ...task, ...more });
    return task;
  }

  progress(task, more) {
    return this.#event("progress", { ...task, ...more });
  }

  failAttempt(task, attempt, error, more = {}) {
    return this.#event("attempt_failed", { ...task, attempt, error, ...more });
  }

  done(task, more = {}) {
    return this.#event("completed", { ...task, ...more });
  }

  fail(task, error, more = {}) {
    return this.#event("failed", { ...task, error, ...more });
  }

  /** Adds a step from its start to its end. */
  step(step, ms, options = {}) {
    const { attempt = 1, attributes, ...rest } = options;
    const task = this.task(step, rest);
    return this.wait(ms).done(task, { attempt, ...(attributes && { attributes }) });
  }

  at(ms) {
    return new Date(this.time + ms).toISOString();
  }

  #event(type, data) {
    this.events.push([type, { ...data, timestamp: new Date(this.time).toISOString() }]);
    return this;
  }
}

/** Returns an order that has waited for a day, was approved, and is being shipped. `live` leaves it open, `waits` stops before the approval. */
export function order(end, { until = "live" } = {}) {
  const s = new Script(0);
  s.begin().wait(40);
  s.step("check stock", 640, { attributes: { warehouse: "Rotterdam", shelf: 14 } }).wait(30);
  const charge = s.task("charge card");
  s.wait(900).failAttempt(charge, 1, "the bank does not answer (504)").wait(1400).failAttempt(charge, 2, "the bank does not answer (504)").wait(1900);
  s.done(charge, { attempt: 3, attributes: { authorisation: "A-30412", currency: "EUR", amount: 84.5 } }).wait(20);
  const glue = s.task("let the glue dry", { kind: "sleep", until: s.at(5 * 3_600_000) });
  s.wait(5 * 3_600_000).done(glue).wait(35);
  const group = s.task("fulfil", { group: true });
  const pack = s.task("pack parcels", { parent: group });
  const label = s.task("print label", { parent: group });
  s.wait(420).progress(pack, { percent: 25, message: "1 of 4 packed" });
  s.wait(300).done(label, { attempt: 1 });
  const customs = s.task("declare to customs", { parent: group });
  s.wait(380).progress(pack, { percent: 50, message: "2 of 4 packed" }).wait(800).progress(pack, { percent: 75, message: "3 of 4 packed" });
  s.wait(200).failAttempt(customs, 1, "tariff code 6912 needs a weight").wait(700).done(customs, { attempt: 2 });
  s.wait(250).progress(pack, { percent: 100, message: "4 of 4 packed" }).wait(60).done(pack, { attempt: 1, attributes: { parcels: 4, weight: "11.2 kg" } }).wait(5).done(group).wait(25);
  const wait = s.task("wait for approval", { kind: "waitForEvent", eventType: "approval", until: s.at(3 * DAY) });
  if (until === "waiting") {
    s.wait(24_000);
    return shifted(s, end);
  }
  s.wait(DAY + 2 * 3_600_000).done(wait, { attempt: 1 }).wait(15);
  s.step("book the courier", 1300).wait(20);
  if (until === "failed") {
    const hand = s.task("hand over");
    for (const attempt of [1, 2, 3]) s.wait(700).failAttempt(hand, attempt, "nobody opens the door at Coolsingel 12");
    s.fail(hand, "nobody opens the door at Coolsingel 12", { attempt: 3 }).wait(40);
    const tell = s.task("tell the customer");
    s.wait(300).end("hand over failed after 3 attempts: nobody opens the door at Coolsingel 12");
    void tell;
    return shifted(s, end);
  }
  const ship = s.task("ship", { group: true });
  for (const parcel of [1, 2, 3]) s.step(`load parcel ${parcel}`, 500 + parcel * 130, { parent: ship });
  const load = s.task("load parcel 4", { parent: ship });
  const notify = s.task("notify the warehouse", { parent: ship });
  s.wait(400).progress(load, { percent: 40, message: "on the belt" });
  s.wait(300).failAttempt(notify, 1, "mail server busy, try later");
  if (until === "done") {
    s.wait(500).done(load, { attempt: 1 }).wait(200).done(notify, { attempt: 2 }).wait(10).done(ship).wait(20);
    s.step("send the invoice", 730, { attributes: { number: "2026-1184" } }).wait(15).end();
    return shifted(s, end);
  }
  s.wait(700).progress(load, { percent: 62, message: "on the belt, next is the truck" }).wait(1500);
  return shifted(s, end);
}

/** Returns the same events, shifted so that the last moment is `end`. */
function shifted(script, end) {
  const by = end - script.time;
  const move = (time) => new Date(Date.parse(time) + by).toISOString();
  return script.events.map(([type, data]) => {
    const moved = { ...data };
    for (const key of ["timestamp", "until", "retryAt"]) if (moved[key]) moved[key] = move(moved[key]);
    return [type, moved];
  });
}

/** Returns the snapshot of a run of many tasks, made of `events` events: three for each step. */
export function bigSnapshot(id, events, { ended = false, start = Date.now() - 3_600_000 } = {}) {
  const steps = Math.floor(events / 3);
  const every = 3_000_000 / steps;
  const time = (ms) => new Date(start + ms).toISOString();
  const tasks = [];
  let group = null;
  for (let n = 0; n < steps; n += 1) {
    if (n % 100 === 0) {
      group = { taskId: `batch-${n / 100 + 1}.group`, step: `batch ${n / 100 + 1}`, kind: "do", count: 1, parentId: null, state: "completed", started: time(n * every), ended: time((n + 100) * every), tasks: [] };
      tasks.push(group);
    }
    const failed = n % 997 === 996;
    group.tasks.push({
      taskId: `import record-${n + 1}`, step: "import record", kind: "do", count: n + 1, parentId: group.taskId, state: failed ? "failed" : "completed", started: time(n * every), ended: time((n + 0.9) * every),
      attempt: 1, percent: 100, message: `record ${n + 1} of ${steps}`, ...(failed && { error: "the record has no key" }),
    });
  }
  return { id, workflow: "import", run: 1, state: ended ? "completed" : "running", started: time(0), ...(ended && { ended: time(3_000_000) }), cursor: events, taskCount: steps + tasks.length, tasks };
}
