// Logs that several servers serve: appending to them, and following them as an EventSource does.
import assert from "node:assert/strict";
import { json } from "./script.mjs";
import { open } from "./sse.mjs";

/** Appends events `{data, type?, key?, terminal?}`. Resolves to their ids, null for duplicates. */
export function dispatch(url, events) {
  const body = JSON.stringify(events.map((event) => ({ type: "message", ...event })));
  return json(url, { method: "POST", body });
}

/** A client that comes back with its last id whenever its stream breaks. */
export class Tail {
  #stream;
  #isOver = false;

  /** `url` is called before each connection, and may return another server each time. */
  constructor(url) {
    this.url = url;
    this.events = [];
    this.connections = 0;
  }

  /** Breaks the connection. */
  hop() {
    this.#stream?.close();
    this.#stream = undefined;
  }

  /** Reads up to this number of events. */
  async until(count) {
    while (this.events.length < count && !this.#isOver) await this.#next();
  }

  /** Reads until a server answers 204. */
  async rest() {
    while (!this.#isOver) await this.#next();
  }

  async #next() {
    if (!this.#stream) {
      const url = this.url();
      this.connections += 1;
      try {
        this.#stream = await open(url, { lastEventId: this.events.at(-1)?.id });
      } catch (error) {
        const [, status] = error.message.match(/: (\d{3}) /) ?? [];
        if (status === "204") this.#isOver = true;
        // The client retries after any other error.
        else assert.ok([undefined, "500", "503"].includes(status), error.message);
        return;
      }
    }
    const event = await this.#stream.next().catch(() => null);
    if (event) this.events.push(event);
    else this.#stream = undefined;
  }
}
