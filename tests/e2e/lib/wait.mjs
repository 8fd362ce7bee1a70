// Waiting for what has to become so. A test never waits for a time and then reads: it waits for the thing itself, and says what was
// there instead if it never comes.
import assert from "node:assert/strict";
import { isDeepStrictEqual } from "node:util";

/** How long anything may take on a busy machine. Only what hangs takes longer. */
export const PATIENCE_MS = 90_000;
const LOOK_EVERY_MS = 20;

/** Waits until what `read` gives equals `expected`. Fails with what it was in the end. */
export async function becomes(read, expected, message) {
  let seen;
  const wasSo = await repeat(async () => isDeepStrictEqual((seen = await read()), expected));
  if (!wasSo) assert.deepEqual(seen, expected, message);
}

/** Waits until `isSo` gives something true, and resolves to it. `what` says what is waited for; a function may say what was there. */
export async function until(what, isSo) {
  let found;
  if (await repeat(async () => (found = await isSo()))) return found;
  return assert.fail(`after ${PATIENCE_MS / 1000} s it is still not so: ${typeof what === "function" ? await what() : what}`);
}

async function repeat(isSo) {
  for (const deadline = performance.now() + PATIENCE_MS; performance.now() < deadline; ) {
    if (await isSo()) return true;
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
  }
  return false;
}
