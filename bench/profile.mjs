// npm run bench -- --profile [--scenarios a] [--contestants a]: where the time of a scenario goes.
//
// Takes a CPU profile of workerd's isolate through its inspector while the scenario runs, writes it for
// a browser's developer tools, and sums it up. A profiled trial is slower than others.
import { writeFileSync } from "node:fs";
import path from "node:path";
import { Failure } from "../scripts/lib/run.mjs";

/** Profiles the isolate of a server while `body` runs, and adds the profile to its report. */
export async function profiled({ inspectorPort }, body) {
  const [{ webSocketDebuggerUrl }] = await (await fetch(`http://127.0.0.1:${inspectorPort}/json`)).json();
  const inspector = await connect(webSocketDebuggerUrl);
  await inspector.call("Profiler.enable");
  await inspector.call("Profiler.setSamplingInterval", { interval: 200 });
  await inspector.call("Profiler.start");
  const report = await body();
  const { profile } = await inspector.call("Profiler.stop");
  inspector.close();
  return { ...report, profile };
}

/** Writes a profile as `NAME.cpuprofile` and sums up, as text, which functions used the processor, without those that they called. */
export function saveProfile(profile, folder, name) {
  writeFileSync(path.join(folder, `${name}.cpuprofile`), JSON.stringify(profile));
  const times = selfTimes(profile);
  const idle = times.get(IDLE) ?? 0;
  times.delete(IDLE);
  const busy = sum(times.values());
  const lines = (entries) =>
    entries
      .toSorted((a, b) => b[1] - a[1])
      .slice(0, 20)
      .map(([title, time]) => `${((100 * time) / busy).toFixed(1).padStart(5)} %  ${title}`);

  const kinds = [...Map.groupBy(times, ([title]) => kind(title))].map(([title, entries]) => [title, sum(entries.map(([, time]) => time))]);
  const milliseconds = (time) => `${(time / 1000).toFixed(0)} ms`;
  return [`${milliseconds(busy)} busy, ${milliseconds(idle)} idle`, "", ...lines(kinds), "", ...lines([...times])].join("\n");
}

const IDLE = "(idle)";
const sum = (numbers) => [...numbers].reduce((total, number) => total + number, 0);

/** Microseconds of each function itself. */
function selfTimes({ nodes, samples, timeDeltas }) {
  const titles = new Map(nodes.map(({ id, callFrame }) => [id, title(callFrame)]));
  const times = new Map();
  samples.forEach((id, index) => {
    const name = titles.get(id);
    times.set(name, (times.get(name) ?? 0) + (timeDeltas[index + 1] ?? 0));
  });
  return times;
}

function title({ functionName, url, lineNumber }) {
  const place = url.startsWith("wasm:") ? " (wasm)" : url ? ` (${url.split("/").at(-1)}:${lineNumber + 1})` : "";
  return `${readable(functionName) || "anonymous"}${place}`;
}

/** A Rust name without the hashes of crates, and not longer than a line. */
function readable(name) {
  const plain = name.replaceAll(/\[[0-9a-f]{8,}\]/g, "");
  return plain.length > 110 ? `${plain.slice(0, 109)}…` : plain;
}

function kind(title) {
  if (title.endsWith("(wasm)")) return "WebAssembly";
  if (title === "(garbage collector)") return "garbage collector";
  if (title === "(program)") return "the runtime outside of functions: I/O, RPC, streams";
  return title.endsWith(")") ? "JavaScript" : "the runtime's functions, as `exec`";
}

async function connect(url) {
  const socket = new WebSocket(url);
  await new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve);
    socket.addEventListener("error", () => reject(new Failure(`the inspector at ${url} does not answer.`)));
  });
  const waiting = new Map();
  let number = 0;
  socket.addEventListener("message", ({ data }) => {
    const { id, result, error } = JSON.parse(data);
    const { resolve, reject } = waiting.get(id) ?? {};
    if (error) reject?.(new Error(error.message));
    else resolve?.(result);
  });
  return {
    call(method, params = {}) {
      number += 1;
      const answer = new Promise((resolve, reject) => waiting.set(number, { resolve, reject }));
      socket.send(JSON.stringify({ id: number, method, params }));
      return answer;
    },
    close: () => socket.close(),
  };
}
