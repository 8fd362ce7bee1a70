// The roofline of several runs on one connection, and of an index of runs: the least work that JavaScript can do for the same
// bytes. The logs are those of roofline.mjs.
//
// - `GET /sse?run=a&run=b` merges the streams of these objects in the Worker: each event with the data's run, and with an id that
//   is the position in every one of them, so that a client can come back at any event
// - `GET /runs` and `GET /runs/sse` are the index's: see `RunIndex`
//
// As there: no validation, no versions, no retention, no end, no heartbeats, no errors.
import { DurableObject } from "cloudflare:workers";
import roofline, { Viewers, WorkflowEvents } from "./roofline.mjs";

export { WorkflowEvents };

const UTF8 = new TextEncoder();

export default {
  fetch(request, env) {
    const url = new URL(request.url);
    if (url.pathname === "/sse") return merge(url.searchParams.getAll("run"), request, env);
    if (url.pathname.startsWith("/runs")) return env.RUNS.getByName("bench").fetch(request);
    return roofline.fetch(request, env);
  },
};

function merge(runs, request, env) {
  const { readable, writable } = new IdentityTransformStream();
  const known = request.headers.get("last-event-id")?.slice(1).split(".");
  const positions = known ?? runs.map(() => "0");
  const writer = writable.getWriter();
  for (const [index, run] of runs.entries()) {
    follow(run, index, positions, writer, env).catch(() => {}); // the viewer has gone
  }
  return new Response(readable, { headers: { "content-type": "text/event-stream", "cache-control": "no-cache" } });
}

/** Passes on the events of one run. At most one chunk of each run is in memory. */
async function follow(run, index, positions, writer, env) {
  const headers = { "last-event-id": String(parseInt(positions[index], 36)) };
  const { body } = await env.EVENTS.getByName(run).fetch("http://log/sse", { headers });
  const begin = `{"runId":"${run}",`;
  const text = new TextDecoder();
  let rest = "";
  for await (const chunk of body) {
    const frames = (rest + text.decode(chunk, { stream: true })).split("\n\n");
    rest = frames.pop(); // the beginning of a frame
    let out = "";
    for (const frame of frames) {
      // The comment with which a stream begins is before the first one.
      const [id, type, data] = frame.split("\n").slice(-3);
      positions[index] = Number(id.slice(4)).toString(36);
      out += `id: m${positions.join(".")}\n${type}\ndata: ${begin}${data.slice(7)}\n\n`;
    }
    if (out !== "") await writer.write(UTF8.encode(out));
  }
}

/** A table of runs, and a log of its changes. */
export class RunIndex extends DurableObject {
  #sql;
  #changes;

  constructor(ctx, env) {
    super(ctx, env);
    this.#sql = ctx.storage.sql;
    this.#sql.exec("CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, began INTEGER NOT NULL, entry TEXT NOT NULL) WITHOUT ROWID");
    this.#sql.exec("CREATE INDEX IF NOT EXISTS runs_began ON runs (began, id)");
    this.#changes = new Viewers(this.#sql);
  }

  take(report) {
    const { id, began, entry } = JSON.parse(report);
    const data = JSON.stringify(entry);
    this.#sql.exec("INSERT OR REPLACE INTO runs (id, began, entry) VALUES (?, ?, ?)", id, began, data);
    this.#changes.append([["run", data]]);
    return true;
  }

  fetch(request) {
    if (request.url.endsWith("/sse")) return this.#changes.stream(request);
    const rows = this.#sql.exec("SELECT entry FROM runs ORDER BY began DESC, id DESC LIMIT 100").raw();
    return new Response(`{"runs":[${[...rows].join(",")}]}`, { headers: { "content-type": "application/json" } });
  }
}
