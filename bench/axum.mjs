// npm run bench -- --axum: what 10,000 idle viewers cost the example server (examples/axum).
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { Failure, at, run } from "../scripts/lib/run.mjs";

/** Measures and writes `axum.md` and `axum.json` into the folder. */
export async function measureAxum(folder, { client, machine, short }) {
  const { ok } = await run("cargo build", "cargo", ["build", "--release", "-p", "ssetarget-axum-example"], { quiet: true });
  if (!ok) throw new Failure("examples/axum does not build.");
  const reports = {};
  for (const viewers of short ? [50] : [1_000, 10_000]) {
    const server = await start();
    try {
      const args = [`viewers=${viewers}`, `seconds=${short ? 1 : 40}`, "path=/room/sse", "post=/room?type=note"];
      reports[viewers] = await client(server, ["idle", ...args]);
    } finally {
      server.stop();
    }
    const { lost, duplicates, disorder, wrong } = reports[viewers];
    if (lost + duplicates + disorder + wrong > 0) throw new Failure(`not exact: ${JSON.stringify(reports[viewers])}`);
  }
  const report = { ...machine, reports };
  console.log(markdown(report));
  if (short) return;
  writeFileSync(path.join(folder, "axum.json"), `${JSON.stringify(report, null, 1)}\n`);
  writeFileSync(path.join(folder, "axum.md"), markdown(report));
}

function start() {
  const child = spawn(at("target/release/ssetarget-axum-example"), [], {
    env: { ...process.env, HOST: "127.0.0.1", PORT: "0", DATA_DIR: ":memory:" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  process.once("exit", () => child.kill("SIGKILL"));
  return new Promise((resolve, reject) => {
    child.stdout.setEncoding("utf8").on("data", (text) => {
      const port = text.match(/:(\d+)/)?.[1];
      if (port) resolve({ pid: child.pid, port: Number(port), stop: () => child.kill("SIGKILL") });
    });
    child.once("close", (code) => reject(new Error(`examples/axum ended with ${code}`)));
  });
}

function markdown({ started, machine, load, reports }) {
  const lines = Object.entries(reports).map(([viewers, report]) => {
    const { memoryPerViewer, cpuMsPerSecond, nextEventMs, memory } = report;
    const cells = [viewers, memoryPerViewer / 1000, memory / 1e6, cpuMsPerSecond, nextEventMs];
    return `| ${cells.map((cell) => Number(cell).toLocaleString("en", { maximumFractionDigits: 1 })).join(" | ")} |`;
  });
  return `# Idle viewers of a plain server

Made by \`npm run bench -- --axum --save\` at ${started}. Do not edit.

examples/axum, all viewers of one log in memory. ${machine}, load ${load.join(", ")}.

| viewers | memory for each, KB | memory of the process, MB | CPU in a second, ms (heartbeats) | the next event at all of them, ms |
|---:|---:|---:|---:|---:|
${lines.join("\n")}
`;
}
