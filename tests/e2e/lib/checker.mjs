// Records what viewers saw, for tests/checker, which knows the promises.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import path from "node:path";
import { at } from "../../../scripts/lib/run.mjs";

const CHECKER = path.join(process.env.CARGO_TARGET_DIR ?? at("target"), "debug/ssetarget-checker");

/** Collects records of logs, in the order of observation, and has them checked. */
export class Records {
  #lines = [];

  /** Adds a record of tests/checker/src/lib.rs: `add("run-1", { connected: { viewer, from, status } })`. */
  add(log, record) {
    this.#lines.push(JSON.stringify({ log, ...record }));
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

  /** Fails with the list of broken promises. */
  check() {
    const { status, stdout, stderr, error } = spawnSync(CHECKER, { input: this.#lines.join("\n"), encoding: "utf8" });
    assert.equal(error, undefined);
    assert.equal(status, 0, `${stdout}${stderr}`);
    assert.match(stdout, new RegExp(`^${this.#lines.length} records, 0 violations$`, "m"));
  }
}

const isEnd = ({ type, json }) => ["completed", "failed"].includes(type) && json.kind === "workflow";

const plain = ({ id, type, data, raw }) => ({ id, type, data, raw: id === null ? undefined : raw });
