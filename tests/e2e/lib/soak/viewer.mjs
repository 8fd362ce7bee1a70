// Viewers of the soak: each has a connection of its own, comes and goes as its plan says, and records what it sees.
import http from "node:http";
import { EMPTY, Parser } from "../sse.mjs";

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class Viewer {
  #records;
  #log;
  #isStopped = false;
  #connection;

  /**
   * `url` is asked before each connection. `after` is where it begins; `hear` gets every event; `tally` counts
   * `connections`, `events` and what was refused.
   */
  constructor({ name, log, url, plan, records, tally, after = 0, hear = () => {} }) {
    Object.assign(this, { name, url, plan, tally, hear, position: after });
    this.#records = records;
    this.#log = log;
    this.wantsTail = plan.kind === "tail" && after === 0;
    this.hasWaited = false;
    this.connections = 0;
    this.bytes = plan.bytes;
    this.stride = plan.stride;
  }

  /** Follows until a server says that there is no more to come. Resolves to whether that was said before it was stopped. */
  async follow() {
    while (!this.#isStopped) {
      const { status, broken } = await this.#connect();
      if (status === 204) return true;
      if (status === 200) await pause(this.plan.kind === "hopper" && !broken ? this.plan.pause : 20);
      else await pause(150);
    }
    return false;
  }

  /** Where it is, for those who wait for it. */
  at() {
    return `${this.#log}: ${this.name} follows, with connection ${this.connections}, and is at ${this.position}`;
  }

  /** Gives up. */
  stop() {
    this.#isStopped = true;
    this.#connection?.destroy();
  }

  /** One connection, to its end. */
  #connect() {
    const { plan } = this;
    const from = this.position ? { after: this.position } : this.wantsTail ? "latest" : "beginning";
    const headers = { accept: "text/event-stream", ...(this.position && { "last-event-id": this.position }) };
    const url = `${this.url()}${from === "latest" ? "?from=latest" : ""}`;
    this.connections += 1;
    this.tally.connections += 1;
    this.#add({ asked: { viewer: this.name } });
    return new Promise((resolve) => {
      let isOver = false;
      const over = (status, { how, broken = false } = {}) => {
        if (isOver) return;
        isOver = true;
        if (how) this.#add({ ended: { viewer: this.name, how } });
        request.destroy();
        resolve({ status, broken });
      };
      const request = http.get(url, { agent: false, headers }, (response) => {
        const status = response.statusCode;
        if (status === 200 || status === 204) this.#add({ connected: { viewer: this.name, from, status } });
        if (status !== 200) {
          response.resume();
          if (status !== 204) this.tally.refuse(status, url);
          return over(status);
        }
        const leave = () => over(200, { how: "cut" });
        const parser = new Parser();
        let [count, size, hasPosition] = [0, 0, from !== "latest"];
        response.on("data", (chunk) => {
          if (isOver) return;
          size += chunk.length;
          // What comes behind the cut was never received.
          const cut = plan.kind === "cutter" && size >= this.bytes;
          const kept = cut ? chunk.subarray(0, chunk.length - (size - this.bytes)) : chunk;
          let events;
          try {
            events = parser.feed(kept);
          } catch (error) {
            this.tally.wrong(`${this.#log}: ${this.name} got what is not of this format: ${error.message}`);
            return leave();
          }
          if (!hasPosition && parser.begins) {
            hasPosition = true;
            this.#add({ position: { viewer: this.name, id: parser.begins === EMPTY ? 0 : parser.begins } });
            this.position = parser.begins;
          }
          for (const event of events) {
            count += 1;
            this.tally.events += 1;
            this.#add({ seen: { viewer: this.name, event: { id: event.id, type: event.type, data: event.data, raw: event.id === null ? undefined : event.raw } } });
            if (event.id !== null) this.position = event.id;
            this.hear(event);
            // Others that came in the same chunk are as if they had not come: they come again.
            if (plan.kind === "hopper" && count === this.stride) {
              this.stride *= 2;
              return leave();
            }
          }
          if (cut) {
            this.bytes *= 2;
            return leave();
          }
          if (plan.kind === "staller" && !this.hasWaited && count >= plan.stride) {
            this.hasWaited = true;
            response.pause();
            setTimeout(() => response.resume(), 500 + 2 * plan.pause);
          }
        });
        response.on("end", () => {
          if (isOver) return;
          // Half an event at the end is no end.
          try {
            parser.end();
            over(200, { how: response.complete ? "clean" : "cut", broken: true });
          } catch {
            over(200, { how: "cut", broken: true });
          }
        });
        response.on("error", () => over(200, { how: "cut", broken: true }));
        response.on("close", () => over(200, { how: "cut", broken: true }));
        if (plan.kind === "vanisher" && this.connections <= plan.stride) leave();
      });
      this.#connection = request;
      request.on("error", () => over(0));
      request.on("close", () => over(0));
      // Gone before there is an answer: every other time, so that answers are not waited for, either.
      if (plan.kind === "vanisher" && this.connections <= plan.stride && this.connections % 2 === 1) setTimeout(() => over(200), plan.pause / 50);
    });
  }

  #add(record) {
    this.#records.add(this.#log, record);
  }
}
