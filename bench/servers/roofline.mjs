// The roofline: the least work that a Durable Object in JavaScript can do for the same bytes.
//
// No validation, no idempotence, no end, no heartbeats, no errors: it is there to be compared with.
import { DurableObject } from "cloudflare:workers";
import { NOTE, TIMESTAMP, contestant } from "./driver.mjs";

const PAGE_EVENTS = 300; // about 64 KiB
const PAGE_BYTES = 64 * 1024;
const TAIL_BYTES = 1024 * 1024;
const UTF8 = new TextEncoder();

export class WorkflowEvents extends DurableObject {
  #viewers;

  constructor(ctx, env) {
    super(ctx, env);
    this.#viewers = new Viewers(ctx.storage.sql);
  }

  append(batch) {
    this.#viewers.append(batch);
  }

  fetch(request) {
    return this.#viewers.stream(request);
  }
}

/** A log, and those who watch it. */
export class Viewers {
  #sql;
  #head = 0;
  /** The newest appends as bytes, each shared by all viewers. */
  #tail = [];
  #tailBytes = 0;
  /** The bytes that viewers at the same position share when several appends go into one write. */
  #joined = { after: -1, last: -1, bytes: null };
  #bell = bell();

  constructor(sql) {
    this.#sql = sql;
    this.#sql.exec("CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, frame TEXT NOT NULL)");
    this.#head = this.#sql.exec("SELECT coalesce(max(id), 0) FROM events").raw().next().value[0];
  }

  append(batch) {
    const after = this.#head;
    const frames = batch.map(([type, data], index) => `id: ${after + index + 1}\nevent: ${type}\ndata: ${data}\n\n`);
    if (frames.length === 1) {
      this.#sql.exec("INSERT INTO events (id, frame) VALUES (?, ?)", after + 1, frames[0]);
    } else {
      const insert = "INSERT INTO events (id, frame) SELECT ?1 + key + 1, value FROM json_each(?2)";
      this.#sql.exec(insert, after, JSON.stringify(frames));
    }
    this.#head += frames.length;

    const bytes = UTF8.encode(frames.length === 1 ? frames[0] : frames.join(""));
    this.#tail.push({ after, last: this.#head, bytes });
    this.#tailBytes += bytes.length;
    while (this.#tailBytes > TAIL_BYTES) this.#tailBytes -= this.#tail.shift().bytes.length;

    const rung = this.#bell;
    this.#bell = bell();
    rung.ring();
  }

  stream(request) {
    const { readable, writable } = new IdentityTransformStream();
    const after = Number(request.headers.get("last-event-id") ?? 0);
    this.#pump(after, writable.getWriter()).catch(() => {}); // the viewer has gone
    return new Response(readable, { headers: { "content-type": "text/event-stream", "cache-control": "no-cache" } });
  }

  async #pump(after, writer) {
    await writer.write(UTF8.encode(":\n"));
    for (;;) {
      while (after < this.#head) {
        const page = this.#fromTail(after) ?? this.#fromSql(after);
        await writer.write(page.bytes);
        after = page.last;
      }
      await this.#bell.rung;
    }
  }

  #fromTail(after) {
    if (this.#joined.after === after && (this.#joined.last === this.#head || this.#joined.bytes.length >= PAGE_BYTES)) {
      return this.#joined;
    }
    const from = this.#tail.findLastIndex((part) => part.after === after);
    if (from < 0) return null;
    let to = from;
    let size = 0;
    for (; to < this.#tail.length && size < PAGE_BYTES; to += 1) size += this.#tail[to].bytes.length;
    if (to === from + 1) return this.#tail[from];

    const bytes = new Uint8Array(size);
    for (let part = from, at = 0; part < to; part += 1) {
      bytes.set(this.#tail[part].bytes, at);
      at += this.#tail[part].bytes.length;
    }
    this.#joined = { after, last: this.#tail[to - 1].last, bytes };
    return this.#joined;
  }

  #fromSql(after) {
    const page =
      "SELECT max(id), CAST(group_concat(frame, '') AS BLOB) FROM (SELECT id, frame FROM events WHERE id > ? ORDER BY id LIMIT ?)";
    const [last, bytes] = this.#sql.exec(page, after, PAGE_EVENTS).raw().next().value;
    return { last, bytes: new Uint8Array(bytes) };
  }
}

function bell() {
  const { promise, resolve } = Promise.withResolvers();
  return { rung: promise, ring: resolve };
}

export default contestant({
  sse: (id, request, env) => env.EVENTS.getByName(id).fetch(request),
  log(id, env) {
    const object = env.EVENTS.getByName(id);
    return (events) => object.append(events);
  },
  event: (number) => [
    "started",
    `{"taskId":"step #${number}-1","step":"step #${number}","kind":"do","count":1,"timestamp":"${TIMESTAMP}","parentId":"workflow:bench-1","attempt":1,"attributes":{"note":"${NOTE}"}}`,
  ],
});
