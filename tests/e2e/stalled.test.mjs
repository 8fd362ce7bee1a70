// Viewers that never read cost others nothing, and miss nothing when they read at last.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { after, before, test } from "node:test";
import { answer, isWaiting, serve, startRun } from "./lib/demo.mjs";
import { open, withoutHeartbeats } from "./lib/sse.mjs";

const STALLED = 10;
// The number of reports of 8 KiB: 57 MB, far more than all buffers on the way hold, also if a busy machine leaves some of them out.
const REPORTS = 7_000;
// Reports that come much faster than these are replaced by newer ones.
const params = { workMs: 4, quantity: REPORTS, item: "x".repeat(8_000) };

let demo;
before(async () => {
  demo = await serve();
});
after(() => demo?.stop());

const skip = process.platform === "linux" ? false : "reads the memory of processes from /proc";

test("viewers that never read", { skip, timeout: 300_000 }, async (context) => {
  // Measures the run with one viewer who reads. The first of the two runs also warms up.
  await followedRun(0);
  const alone = await followedRun(0);
  const together = await followedRun(STALLED);
  const { stalled } = together;
  const size = together.bytes.length;
  const grown = together.peak - alone.peak;
  const mebi = (bytes) => `${Math.round(bytes / 2 ** 20)} MiB`;
  context.diagnostic(`${STALLED} stalled viewers of ${mebi(size)} each: ${mebi(grown)} more than the ${mebi(alone.peak)} with none`);
  assert.ok(size > 35_000_000, `${size}`);
  // If the runtime kept all bytes for them, it would grow by all of this. Measured: 60 to 120 MiB more for ten
  // viewers, however much each has left to read.
  assert.ok(grown < (STALLED * size) / 2, `${mebi(grown)} more for ${STALLED} viewers of ${mebi(size)}`);

  // At last they read, while the run waits: one after the other, and one not to its end.
  const gone = stalled.pop();
  for (const viewer of stalled) await viewer.until(isWaiting);
  await answer(demo.url, together.id);
  const whole = await open(`${demo.url}/${together.id}/sse`);
  await whole.rest();
  for (const viewer of stalled) {
    await viewer.rest();
    assert.ok(withoutHeartbeats(viewer.bytes).equals(withoutHeartbeats(whole.bytes)));
  }
  await gone.next();
  gone.close();
});

/**
 * Starts a run with one viewer who reads and some who do not. Resolves when the run waits: to the viewers who do not
 * read, the events of the reader, and the largest memory of the runtime.
 */
async function followedRun(numberStalled) {
  const id = await startRun(demo.url, { params });
  const url = `${demo.url}/${id}/sse`;
  const reader = await open(url);
  const stalled = await Promise.all(Array.from({ length: numberStalled }, () => open(url)));
  let peak = 0;
  await reader.until((event) => {
    if (event.id % 100 === 0) peak = Math.max(peak, memory());
    return isWaiting(event);
  });
  const { bytes } = reader;
  reader.close();
  return { id, bytes, stalled, peak: Math.max(peak, memory()) };
}

/** Returns the resident memory of the runtime's processes, which are in wrangler's process group. */
function memory() {
  const processes = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  let total = 0;
  for (const process of processes) {
    try {
      const [, name, fields] = readFileSync(`/proc/${process}/stat`, "utf8").match(/\((.*)\) (.*)$/s);
      const group = Number(fields.split(" ")[2]);
      if (name !== "workerd" || group !== demo.pid) continue;
      const status = readFileSync(`/proc/${process}/status`, "utf8");
      total += Number(status.match(/^VmRSS:\s+(\d+) kB$/m)[1]) * 1024;
    } catch {
      // it has ended
    }
  }
  return total;
}
