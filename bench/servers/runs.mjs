// The entry of contestants that have an index of runs, `RunIndex`: has it take reports, as the objects of runs would send them.
//
// - `POST /reports/append?from=1&batch=1&count=N` sends N batches of reports, those of a batch at the same time. Two reports are
//   of one run: it began, and it is over.
//
// Everything else goes to the contestant.
import * as contestant from "./index.js";
export { RowCounter, Rows, WorkflowEvents } from "./rows.js";
export const { RunIndex } = contestant;

const START = 1_795_510_800_000;
const iso = (ms) => new Date(ms).toISOString();

/** Its number is in the task, where the client looks for it: a viewer gets a change for each report. */
function report(number) {
  const run = Math.floor((number - 1) / 2);
  const isOver = number % 2 === 0;
  const began = START + run * 1000;
  const id = `run-${String(run).padStart(6, "0")}`;
  const entry = {
    id,
    workflow: "bench",
    run: 1,
    state: isOver ? "completed" : "running",
    cursor: isOver ? 12 : 1,
    started: iso(began),
    task: `pack parcel #${number}`,
    ...(isOver ? { ended: iso(began + 4000) } : { percent: 40 }),
  };
  const took = { "pack parcel-1": 3000, "charge card-1": 900 };
  return JSON.stringify({ id, version: isOver ? 24 : 2, began, expires: null, entry, ...(isOver && { took }) });
}

async function append(url, env) {
  const number = (name) => Number(url.searchParams.get(name));
  const index = env.RUNS.getByName("bench");
  const batch = number("batch");
  let next = number("from");
  for (let left = number("count"); left > 0; left -= 1) {
    await Promise.all(Array.from({ length: batch }, () => index.take(report(next++))));
  }
  return new Response(`${next - 1}\n`);
}

const { default: main } = contestant;
const isClass = typeof main === "function";

export default {
  fetch(request, env, ctx) {
    if (request.method === "POST") {
      const url = new URL(request.url);
      if (url.pathname === "/reports/append") return append(url, env);
    }
    return isClass ? new main(ctx, env).fetch(request) : main.fetch(request, env, ctx);
  },
};
