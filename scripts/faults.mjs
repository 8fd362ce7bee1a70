// npm run test:faults [-- --minutes N] [-- --seed S]: the walk with fresh seeds for as long as asked, 10 minutes by
// default; then the defects of tests/mutations.json, put back one at a time (a handful below an hour, all of them
// from an hour on); then the soak (scripts/soak.mjs) for as long.
//
// Prints every seed before the walk, and for a failure the command that repeats it.
import { Failure, at, main, run } from "./lib/run.mjs";
import { ensureRust } from "./lib/setup.mjs";
import { mutations, report } from "./mutations.mjs";

const STEPS = 1_000_000;

main(async () => {
  const minutes = number("--minutes", 10);
  await ensureRust();
  const until = Date.now() + minutes * 60_000;
  let seed = number("--seed", Math.floor(Date.now() / 1000) * 1000);
  let walked = 0;
  do {
    console.log(`SSETARGET_WALK_SEED=${seed} SSETARGET_WALK_STEPS=${STEPS}`);
    const env = { ...process.env, SSETARGET_WALK_SEED: String(seed), SSETARGET_WALK_STEPS: String(STEPS) };
    const { ok } = await run(`walk ${seed}`, "cargo", ["test", "-p", "ssetarget", "--test", "walk", "a_walk"], { env, quiet: true });
    if (!ok) throw new Failure("a promise was broken: the lines above say which, and how to walk the same way again.");
    walked += STEPS;
    // A walk of a million steps takes fewer seeds than that.
    seed += 1_000_000;
  } while (Date.now() < until);
  console.log(`${walked} steps, and no promise was broken`);
  if (!report(await mutations({ quick: minutes < 60 }))) process.exitCode = 1;
  const { ok } = await run("soak", process.execPath, [at("scripts/soak.mjs"), "--minutes", String(Math.max(1, minutes))]);
  if (!ok) process.exitCode = 1;
});

function number(name, otherwise) {
  const at = process.argv.indexOf(name);
  if (at < 0) return otherwise;
  const value = Number(process.argv[at + 1]);
  if (!Number.isSafeInteger(value) || value < 0) throw new Failure(`${name} is a whole number.`);
  return value;
}
