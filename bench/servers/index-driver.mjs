// Has an index of runs, which `index.js` exports, do work: that of this library, or the roofline.
//
// - `POST /take?from=0&count=N&together=M` reports N runs, M at a time: `began` and `ended` make two reports of each
// - `GET /list` is the first page
import { RunIndex } from "./index.js";
export * from "./index.js";
export { RunIndex };

const START = 1_795_510_800_000;
const iso = (ms) => new Date(ms).toISOString();

function report(number, isOver) {
  const began = START + number * 1000;
  const id = `run-${String(number).padStart(6, "0")}`;
  const entry = { id, workflow: "bench", run: 1, state: isOver ? "completed" : "running", cursor: isOver ? 12 : 1, started: iso(began), task: "pack parcel", ...(isOver ? { ended: iso(began + 4000) } : { percent: 40 }) };
  return JSON.stringify({ id, version: isOver ? 24 : 2, began, expires: null, entry, ...(isOver && { took: { "pack parcel-1": 3000, "charge card-1": 900 } }) });
}

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const index = env.RUNS.getByName("bench");
    if (url.pathname === "/list") return index.fetch("http://index/?limit=100", { headers: { "ssetarget-list": "1" } });
    const number = (name) => Number(url.searchParams.get(name));
    const from = number("from");
    let next = from;
    const end = from + number("count");
    await Promise.all(Array.from({ length: number("together") }, async () => {
      while (next < end) {
        const run = next++;
        await index.take(report(run, false));
        await index.take(report(run, true));
      }
    }));
    return new Response(`${2 * (end - from)}\n`);
  },
};
