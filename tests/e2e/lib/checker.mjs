// Records what viewers saw and what writers were answered, for tests/checker, which knows the promises. `Records` keeps all
// until it is checked. `LiveRecords` is for soaks: it hands each record to the checker at once and keeps none.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { at } from "../../../scripts/lib/run.mjs";

const CHECKER = path.join(process.env.CARGO_TARGET_DIR ?? at("target"), "debug/ssetarget-checker");

/** Records of logs, in the order of observation. */
class Recorder {
  /** Adds a record of tests/checker/src/lib.rs: `add("run-1", { connected: { viewer, from, status } })`. */
  add(log, record) {
    this.write(JSON.stringify({ log, ...record }));
  }

  /**
   * A batch was appended. `answer` is `"acknowledged"`, `"refused"`, `"unknown"`, or `{ stored: [1, null] }`, where an
   * id is `null` for a key that was there. `after` is the greatest id that any writer knew when it was sent.
   */
  append(log, events, answer, after) {
    this.add(log, { append: { events: events.map(({ type, data, key, terminal = false }) => ({ type, data, key, terminal })), answer, after } });
  }

  /** Every append of this log is recorded, so what nobody appended is an invention. */
  whole(log) {
    this.add(log, { whole: null });
  }

  /** A viewer asks; the answer will take its time. */
  asked(log, viewer) {
    this.add(log, { asked: { viewer } });
  }

  /** The log has removed the events up to this id. To be recorded before anybody can notice. */
  trimmed(log, last) {
    this.add(log, { trimmed: { last } });
  }

  connected(log, viewer, lastEventId, status = 200) {
    const from = lastEventId ? { after: Number(lastEventId) } : "beginning";
    this.add(log, { connected: { viewer, from, status } });
  }

  seen(log, viewer, event) {
    this.add(log, { seen: { viewer, event: plain(event) } });
  }

  ended(log, viewer, how) {
    this.add(log, { ended: { viewer, how } });
  }

  /** Adds a whole connection afterwards: where it began, its events, and how it ended. */
  transcript(log, viewer, { from, events, how = "clean" }) {
    this.connected(log, viewer, from);
    for (const event of events) this.seen(log, viewer, event);
    this.ended(log, viewer, how);
  }

  /** Adds the whole log of a run that is over, and the platform's own log of its latest run, if given. */
  stored(log, events, platform) {
    const last = events.length - 1;
    const stored = events.map((event, index) => ({ ...plain(event), terminal: isEnd(event) && (index === last || events[index + 1].type === "restarted") }));
    this.add(log, { stored: { events: stored } });
    if (platform) {
      const entries = platform.map(({ type, stepName, attempt, error }) => ({ type, stepName, attempt, error: error && { message: `${error.message ?? ""}` } }));
      this.add(log, { platform: { entries } });
    }
  }
}

/** Collects records and has them checked. */
export class Records extends Recorder {
  #lines = [];

  write(line) {
    this.#lines.push(line);
  }

  /** Resolves to what breaks a promise, as lines of text, and forgets the records: for those who go on with others. */
  async broken() {
    const lines = this.#lines;
    this.#lines = [];
    const child = spawn(CHECKER, { stdio: ["pipe", "pipe", "inherit"] });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text) => (output += text));
    const ended = new Promise((resolve, reject) => child.once("error", reject).once("close", resolve));
    child.stdin.on("error", () => {}); // told by what it prints
    child.stdin.end(lines.join("\n"));
    await ended;
    const printed = output.trimEnd().split("\n");
    const [, records, violations] = printed.pop().match(/^(\d+) records, (\d+) violations$/) ?? [];
    assert.deepEqual([Number(records), Number(violations)], [lines.length, printed.length], output);
    return printed;
  }

  /** Fails with the list of broken promises. */
  check() {
    const { status, stdout, stderr, error } = spawnSync(CHECKER, { input: this.#lines.join("\n"), encoding: "utf8" });
    assert.equal(error, undefined);
    judge(status, stdout, stderr, this.#lines.length);
  }
}

/** Hands records to the checker as they come. `await drained()` now and then: it waits while the checker is behind. */
export class LiveRecords extends Recorder {
  #checker = spawn(CHECKER, { stdio: ["pipe", "pipe", "pipe"] });
  #count = 0;
  #output = ["", ""];
  #ended = once(this.#checker, "close");

  constructor() {
    super();
    // Both say no more than what the end of the process does.
    this.#ended.catch(() => {});
    this.#checker.stdin.on("error", () => {});
    [this.#checker.stdout, this.#checker.stderr].forEach((stream, index) => stream.setEncoding("utf8").on("data", (chunk) => (this.#output[index] += chunk)));
  }

  write(line) {
    this.#count += 1;
    this.#checker.stdin.write(`${line}\n`);
  }

  /** How many bytes the checker has not taken yet. */
  get waiting() {
    return this.#checker.stdin.writableLength;
  }

  async drained() {
    if (this.#checker.stdin.writableNeedDrain) await Promise.race([once(this.#checker.stdin, "drain"), this.#ended]);
  }

  /** Fails with what breaks a promise. */
  async check() {
    this.#checker.stdin.end();
    const [status] = await this.#ended;
    judge(status, ...this.#output, this.#count);
  }
}

function judge(status, stdout, stderr, count) {
  assert.equal(status, 0, `${stdout}${stderr}`);
  assert.match(stdout, new RegExp(`^${count} records, 0 violations$`, "m"));
}

const isEnd = ({ type, json }) => ["completed", "failed"].includes(type) && json.kind === "workflow";

const plain = ({ id, type, data, raw }) => ({ id, type, data, raw: id === null ? undefined : raw });
