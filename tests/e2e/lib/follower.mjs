// A client that comes back with Last-Event-ID whenever its stream breaks, as an EventSource does.
import assert from "node:assert/strict";
import { open } from "./sse.mjs";

export class Follower {
  #stream;
  #records;

  /** Follows a run of `script.mjs`. Its observations go to `records` (checker.mjs) under the run's id, if given. */
  constructor(run, records) {
    this.run = run;
    this.#records = records;
    /** All events, in the order in which they came. */
    this.events = [];
  }

  /** Resolves to the next event, over as many connections as needed. */
  async next() {
    for (;;) {
      this.#stream ??= await this.#open();
      // The end of a connection does not say whether the log has ended: the next connection does.
      const event = await this.#stream.next().catch(() => null);
      if (event) {
        this.#saw(event);
        return event;
      }
      this.#records?.ended(this.run.id, "follower", "cut");
      this.#stream = undefined;
    }
  }

  /** Reads up to the first event for which this holds. */
  async until(holds) {
    for (;;) {
      const event = await this.next();
      if (holds(event)) return event;
    }
  }

  /** Reads until the server answers 204. Resolves to all events. */
  async rest() {
    for (;;) {
      const event = await this.#stream?.next().catch(() => null);
      if (event) {
        this.#saw(event);
        continue;
      }
      this.#stream?.close();
      this.#stream = undefined;
      this.#records?.ended(this.run.id, "follower", "cut");
      const response = await fetch(this.run.sse, { headers: { "last-event-id": `${this.events.at(-1).id}` } });
      if (response.status === 204) {
        this.#records?.connected(this.run.id, "follower", this.events.at(-1).id, 204);
        return this.events;
      }
      assert.equal(response.status, 200, await (response.status === 200 || response.text()));
      await response.body.cancel();
      await this.next();
    }
  }

  close() {
    this.#stream?.close();
    if (this.#stream) this.#records?.ended(this.run.id, "follower", "cut");
    this.#stream = undefined;
  }

  async #open() {
    const lastEventId = this.events.at(-1)?.id;
    const stream = await open(this.run.sse, { lastEventId });
    this.#records?.connected(this.run.id, "follower", lastEventId);
    return stream;
  }

  #saw(event) {
    this.events.push(event);
    this.#records?.seen(this.run.id, "follower", event);
  }
}
