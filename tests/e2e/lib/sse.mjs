// A small reader of event streams that shares nothing with the library or its clients. It keeps
// every byte, and refuses everything that ssetarget promises never to send: a BOM, a CR, broken
// UTF-8, a blank line after a comment, an unknown field, an id out of order, half an event at the
// end, and an id without an event except at the beginning.

/**
 * Opens a stream. `lastEventId` is the header of a client that reconnects; `headers` and `signal`
 * are fetch's. Resolves for any status; `open` requires a stream.
 */
export async function open(url, { lastEventId, headers = {}, signal } = {}) {
  const resume = lastEventId === undefined ? {} : { "last-event-id": String(lastEventId) };
  const abort = new AbortController();
  const signals = signal ? AbortSignal.any([signal, abort.signal]) : abort.signal;
  const response = await fetch(url, { headers: { ...headers, ...resume }, signal: signals, redirect: "error" });
  if (response.status !== 200) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  return new Stream(response, abort);
}

/** Returns all events from here to the end of the stream. */
export async function readAll(url, options) {
  const stream = await open(url, options);
  return stream.rest();
}

/** An open stream. It is read event by event, up to a point, or to the end. */
export class Stream {
  #reader;
  #abort;
  #parser = new Parser();
  #waiting = [];

  constructor(response, abort) {
    this.response = response;
    this.#reader = response.body.getReader();
    this.#abort = abort;
    /** The bytes that were read, in the chunks in which they came. */
    this.chunks = [];
    /** The events that were returned. */
    this.events = [];
  }

  /** Resolves to the next event, or null at the end. Throws if the connection breaks or the bytes are wrong. */
  async next() {
    while (this.#waiting.length === 0) {
      const { done, value } = await this.#reader.read();
      if (done) {
        this.#parser.end();
        return null;
      }
      this.chunks.push(value);
      this.#waiting.push(...this.#parser.feed(value));
    }
    const event = this.#waiting.shift();
    this.events.push(event);
    return event;
  }

  /** Reads up to the first event of this type, or for which this holds, and returns it. */
  async until(wanted) {
    const holds = typeof wanted === "function" ? wanted : (event) => event.type === wanted;
    for (;;) {
      const event = await this.next();
      if (event === null) throw new Error(`the stream ended without ${wanted}`);
      if (holds(event)) return event;
    }
  }

  /** Reads to the end. Resolves to all events, also those read before. */
  async rest() {
    while ((await this.next()) !== null);
    return this.events;
  }

  /** Reads up to the first heartbeat. Nothing else may come before. */
  async untilComment() {
    while (this.#parser.comments === 0) {
      const { done, value } = await this.#reader.read();
      if (done) throw new Error("the stream ended without a heartbeat");
      this.chunks.push(value);
      this.#waiting.push(...this.#parser.feed(value));
    }
  }

  get bytes() {
    return Buffer.concat(this.chunks);
  }

  get comments() {
    return this.#parser.comments;
  }

  /** Cancels the stream. */
  close() {
    this.#abort.abort();
  }
}

/** Parses bytes into events `{id, type, data, json, raw}`; `raw` is the event's own text, with its blank line. */
export class Parser {
  comments = 0;
  /** Where the tail was, if the stream began there and said so. */
  begins;
  #rest = Buffer.alloc(0);
  #block = null;
  #lastId = 0;
  #events = 0;

  /** The id that a client would send when it comes back; 0 for none. */
  get lastId() {
    return this.#lastId;
  }

  feed(chunk) {
    const events = [];
    this.#rest = Buffer.concat([this.#rest, chunk]);
    let start = 0;
    for (let end; (end = this.#rest.indexOf(0x0a, start)) !== -1; start = end + 1) {
      const event = this.#line(UTF8.decode(this.#rest.subarray(start, end)));
      if (event) events.push(event);
    }
    this.#rest = this.#rest.subarray(start);
    return events;
  }

  /** Ends the stream: no bytes may be left over. */
  end() {
    if (this.#rest.length > 0 || this.#block) throw new Error(`half an event at the end: ${this.#block?.raw ?? ""}${this.#rest}`);
  }

  #line(line) {
    if (line.includes("\r")) throw new Error(`a CR in ${JSON.stringify(line)}`);
    if (line === "") return this.#dispatch();
    if (line.startsWith(":")) {
      if (line !== ":" || this.#block) throw new Error(`a comment where none belongs: ${JSON.stringify(line)}`);
      this.comments += 1;
      return null;
    }
    const [, name, value] = line.match(/^(id|event|data): (.*)$/su) ?? [];
    if (!name) throw new Error(`not a line of this format: ${JSON.stringify(line)}`);
    this.#block ??= { raw: "" };
    const block = this.#block;
    block.raw += `${line}\n`;
    if (name === "data") block.data = "data" in block ? `${block.data}\n${value}` : value;
    else if (name in block) throw new Error(`a second ${name}: in ${block.raw}`);
    else block[name] = value;
    return null;
  }

  #dispatch() {
    const { id, event: type, data, raw } = this.#block ?? {};
    if (raw === undefined) throw new Error("a blank line without an event");
    if (/^id: [1-9]\d*\n$/.test(raw) && this.#lastId === 0 && this.#events === 0) {
      this.begins = Number(id); // where the tail is, which is where this stream begins
      this.#lastId = this.begins === EMPTY ? 0 : this.begins;
      this.#block = null;
      return null;
    }
    if (!type || data === undefined) throw new Error(`an event without a type or data: ${raw}`);
    this.#events += 1;
    if (id !== undefined) {
      if (!/^[1-9]\d*$/.test(id) || !Number.isSafeInteger(Number(id))) throw new Error(`a bad id: ${id}`);
      if (Number(id) <= this.#lastId) throw new Error(`id ${id} after ${this.#lastId}`);
      this.#lastId = Number(id);
    } else if (type === "reset") {
      this.#lastId = 0; // the stream begins again at the oldest kept event
    } else if (type !== "expired") {
      throw new Error(`an event without an id: ${raw}`);
    }
    this.#block = null;
    return { id: id === undefined ? null : Number(id), type, data, raw: `${raw}\n`, json: JSON.parse(data) };
  }
}

/** Where the tail of a log is that has no event yet: an id that no event has. */
export const EMPTY = Number.MAX_SAFE_INTEGER;

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Returns the bytes of a stream without its heartbeats, which depend on the clock. */
export function withoutHeartbeats(bytes) {
  return Buffer.from(bytes.toString("latin1").replace(/(?<=^|\n):\n/g, ""), "latin1");
}

/** Returns what two logs of equal runs have in common: everything except times (and ids, if they differ by restarts). */
export function withoutTime(events) {
  return events.map(({ type, json }) => {
    const { timestamp, until, retryAt, ...rest } = json;
    return { type, ...rest };
  });
}
