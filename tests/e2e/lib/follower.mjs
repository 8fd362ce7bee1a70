// A client that comes back with Last-Event-ID whenever its stream breaks, as an EventSource does.
import assert from "node:assert/strict";
import { open } from "./sse.mjs";

export class Follower {
  #stream;

  /** Follows a run of `script.mjs`. */
  constructor(run) {
    this.run = run;
    /** Every event that was seen, in the order of seeing. */
    this.events = [];
  }

  /** The next event, over as many connections as it takes. */
  async next() {
    for (;;) {
      this.#stream ??= await open(this.run.sse, { lastEventId: this.events.at(-1)?.id });
      // A connection that ends or breaks does not say whether that is the end: the next one does.
      const event = await this.#stream.next().catch(() => null);
      if (event) {
        this.events.push(event);
        return event;
      }
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

  /** Reads until the server says that there is no more to come; all events. */
  async rest() {
    for (;;) {
      const event = await this.#stream?.next().catch(() => null);
      if (event) {
        this.events.push(event);
        continue;
      }
      this.#stream?.close();
      this.#stream = undefined;
      const response = await fetch(this.run.sse, { headers: { "last-event-id": `${this.events.at(-1).id}` } });
      if (response.status === 204) return this.events;
      assert.equal(response.status, 200, await (response.status === 200 || response.text()));
      await response.body.cancel();
      await this.next();
    }
  }

  close() {
    this.#stream?.close();
    this.#stream = undefined;
  }
}
