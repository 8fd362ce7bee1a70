// npm run soak [-- --minutes N] [-- --seed S]: real servers, thousands of viewers who come and go, and faults at random,
// for an hour by default; see docs/reliability.md. Prints the seed, which decides the same faults again, and how memory,
// file descriptors and sockets of the servers went. Ends with 1 if a promise was broken or something grew.
import { Failure, foreground, main, run } from "./lib/run.mjs";
import { buildWorker } from "./lib/build.mjs";
import { ensureNodeModules, ensureRust, modernNode } from "./lib/setup.mjs";
import { soak } from "../tests/e2e/lib/soak/soak.mjs";

await main(async () => {
  await ensureRust();
  await ensureNodeModules();
  if (typeof WebSocket === "undefined") {
    process.exitCode = await foreground(modernNode(), process.argv.slice(1));
    return;
  }
  const minutes = number("--minutes", 60);
  const seed = number("--seed", Math.floor(Date.now() / 1000));
  console.log(`npm run soak -- --minutes ${minutes} --seed ${seed}`);
  await buildWorker("test");
  const { ok } = await run("cargo build", "cargo", ["build", "-p", "ssetarget-axum-example", "-p", "ssetarget-checker"], { quiet: true });
  if (!ok) throw new Failure("the programs of the soak do not build.");
  const wrong = await soak({ milliseconds: minutes * 60_000, seed, small: minutes < 3 });
  if (wrong.length > 0) throw new Failure(`${wrong.length} things are wrong:\n${wrong.join("\n")}`);
  console.log("nothing was lost, nothing came twice, and nothing grew");
});
process.exit(); // whatever a server has left open, or a round that hung

function number(name, otherwise) {
  const found = process.argv.indexOf(name);
  if (found < 0) return otherwise;
  const value = Number(process.argv[found + 1]);
  if (!Number.isFinite(value) || value <= 0) throw new Failure(`${name} is a number above 0.`);
  return value;
}
