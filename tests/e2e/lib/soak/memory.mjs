// What a process has: memory, file descriptors, sockets. And whether it grows.
import { readFileSync, readdirSync, readlinkSync } from "node:fs";

/**
 * What a process has now, from /proc: `{ memory, files, sockets }`, the memory in bytes. The local engines of Workflows are
 * left out: they keep their files open after their instances have ended, also with no code of ours.
 */
export function usage(pid) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const memory = Number(status.match(/^RssAnon:\s+(\d+) kB$/m)[1]) * 1024; // without the files that it has mapped
  let [files, sockets] = [0, 0];
  for (const file of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const target = readlinkSync(`/proc/${pid}/fd/${file}`);
      if (!target.includes("/workflows/miniflare-")) files += 1;
      if (target.startsWith("socket:")) sockets += 1;
    } catch {
      // closed since
    }
  }
  return { memory, files, sockets };
}

/** The workerd of a `wrangler dev` that runs the Worker: the other one of its group is wrangler's proxy. */
export function runtimeOf(group) {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const workerds = pids.filter((pid) => {
    try {
      const [, name, rest] = readFileSync(`/proc/${pid}/stat`, "utf8").match(/^\d+ \((.*)\) (.*)$/s);
      return name === "workerd" && Number(rest.split(" ")[2]) === group;
    } catch {
      return false; // it has ended
    }
  });
  const hasStorage = (pid) => readdirSync(`/proc/${pid}/fd`).some((file) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${file}`).includes("/state/");
    } catch {
      return false;
    }
  });
  const found = workerds.find(hasStorage);
  if (!found) throw new Error(`wrangler ${group} has no runtime with storage among ${workerds}`);
  return Number(found);
}

/**
 * Bytes that the isolate of a Worker has once its garbage is collected: `{ heap, wasm }`, JavaScript's with what Rust has
 * allocated, and the size of WebAssembly's memory, which is as large as it ever had to be.
 */
export async function heapOf({ url, inspectorPort }) {
  const { live, wasm } = await collected(url);
  const targets = await (await fetch(`http://127.0.0.1:${inspectorPort}/json`, soon())).json();
  const socket = new WebSocket(targets[0].webSocketDebuggerUrl, { headers: { origin: "http://localhost" } });
  try {
    const { usedSize, embedderHeapUsedSize, backingStorageSize } = await inspect(socket, "Runtime.getHeapUsage");
    return { heap: usedSize + embedderHeapUsedSize + backingStorageSize + live, wasm };
  } finally {
    socket.close(); // also if there is no answer
  }
}

/**
 * Collects the garbage of a Worker whose server `collects`, and resolves to its memory: `{ live, wasm }`. What JavaScript
 * lets go frees what Rust has, which lets go of more of JavaScript's, a moment later each time.
 */
export async function collected(url) {
  for (let time = 0; time < COLLECTIONS; time += 1) {
    const answer = await fetch(`${url}/collect`, { method: "POST", ...soon() });
    if (!answer.ok) throw new Error(`the Worker does not collect: ${await answer.text()}`);
    await answer.text();
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  const memory = await (await fetch(`${url}/memory`, soon())).json();
  if (!(memory.wasm > 0 && memory.live > 0)) throw new Error("the Worker does not say how much memory it has");
  return memory;
}

/** What a lifetime leaves takes two. */
const COLLECTIONS = 4;

const soon = () => ({ signal: AbortSignal.timeout(30_000) });

/** The inspector's answer to a method, as the only one over this socket. */
function inspect(socket, method) {
  return new Promise((resolve, reject) => {
    const fail = () => {
      clearTimeout(timer);
      reject(new Error(`the inspector does not answer to ${method}`));
    };
    const timer = setTimeout(fail, 30_000);
    socket.addEventListener("open", () => socket.send(JSON.stringify({ id: 1, method })));
    for (const end of ["error", "close"]) socket.addEventListener(end, fail);
    socket.addEventListener("message", ({ data }) => {
      if (!data.startsWith('{"id":1,')) return; // what it tells unasked
      clearTimeout(timer);
      const message = JSON.parse(data);
      if (message.error) reject(new Error(`${method}: ${message.error.message}`));
      else resolve(message.result);
    });
  });
}

/** The median of the slopes of all pairs (Theil and Sen): one sample out of line changes nothing. Points are `[x, y]`. */
export function slope(points) {
  const slopes = points.flatMap(([x, y], index) => points.slice(index + 1).map(([later, grown]) => (grown - y) / (later - x)));
  return median(slopes);
}

export function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/**
 * The greatest slope of memory that a soak of so many hours may have, in MB an hour: 1 where it takes an hour or more.
 *
 * Noise of the same size in each sample makes slopes that are the greater the shorter the time is: the slope's standard
 * error for n samples over the time T goes with 1 / (T · √n), and n goes with T. So 1 MB an hour in an hour is as
 * significant as 1 · (60 / 10)^1.5 = 15 in ten minutes, and 465 in one, which are 7.7 MB.
 */
export const slopeAtMost = (hours) => Math.max(1, hours ** -1.5);
