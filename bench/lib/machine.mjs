// Describes the machine and the programs with which the results were made.
import os from "node:os";
import { readFileSync } from "node:fs";
import { at, capture } from "../../scripts/lib/run.mjs";
import { modernNode } from "../../scripts/lib/setup.mjs";
import { compatibility, storageKind } from "./workerd.mjs";

export function machine({ trials }) {
  const version = (name) => JSON.parse(readFileSync(at("node_modules", name, "package.json"), "utf8")).version;
  const commit = capture("git", ["rev-parse", "--short", "HEAD"]);
  const changed = capture("git", ["status", "--porcelain", "--untracked-files=no"]);
  return {
    started: new Date().toISOString(),
    commit: commit && `${commit}${changed ? " with changes" : ""}`,
    trials,
    machine: `${os.cpus().length} x ${os.cpus()[0]?.model.trim()}, ${Math.round(os.totalmem() / 2 ** 30)} GiB, ${os.type()} ${os.release()}`,
    load: os.loadavg().map((load) => Math.round(load * 100) / 100),
    versions: {
      workerd: version("workerd"),
      wrangler: version("wrangler"),
      "@oselvar/ssetarget": `${version("@oselvar/ssetarget")} and ${version("oselvar-ssetarget-2")}`,
      hono: version("hono"),
      node: capture(modernNode(), ["--version"])?.slice(1),
      rustc: capture("rustc", ["--version"])?.split(" ")[1],
      "rustc for the Worker": capture("rustc", ["+nightly", "--version"])?.replace("rustc ", ""),
    },
    compatibility: compatibility(),
    storage: storageKind,
  };
}
