// npm run build [-- demo | test | all]: builds the demo Worker, the one of the e2e tests, or both.
import { Failure, main } from "./lib/run.mjs";
import { WORKERS, buildWorker } from "./lib/build.mjs";

main(async () => {
  // wrangler calls this script before it serves; who has just built says so.
  if (process.env.SSETARGET_PREBUILT === "1") return;

  const which = process.argv[2] ?? "demo";
  const names = which === "all" ? Object.keys(WORKERS) : [which];
  for (const name of names) {
    if (!(name in WORKERS)) throw new Failure(`there is no Worker called ${name}; choose demo, test or all.`);
    await buildWorker(name);
  }
});
