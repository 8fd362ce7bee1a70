// npm run build [-- demo | test | bench | all]: builds the demo Worker, that of the e2e tests, that of the benchmark, or all.
import { Failure, main } from "./lib/run.mjs";
import { WORKERS, buildWorker } from "./lib/build.mjs";

main(async () => {
  // Wrangler calls this script before it serves. A caller that has just built sets the variable.
  if (process.env.SSETARGET_PREBUILT === "1") return;

  const which = process.argv[2] ?? "demo";
  const names = which === "all" ? Object.keys(WORKERS) : [which];
  for (const name of names) {
    if (!(name in WORKERS)) throw new Failure(`there is no Worker called ${name}; choose ${Object.keys(WORKERS).join(", ")} or all.`);
    await buildWorker(name);
  }
});
