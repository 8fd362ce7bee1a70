// npm run clients: runs every client of docs/clients.md that is available here, and writes the table there.
import { readFileSync, writeFileSync } from "node:fs";
import { Failure, at, main, run } from "./lib/run.mjs";
import { ensureNodeModules, ensureRust } from "./lib/setup.mjs";

const FILE = at("docs/clients.md");

main(async () => {
  await ensureRust();
  await ensureNodeModules();
  const build = async (title, args) => {
    const { ok } = await run(title, "cargo", ["build", ...args]);
    if (!ok) throw new Failure(`${title}: cargo build failed.`);
  };
  await build("the axum example", ["-p", "ssetarget-axum-example"]);
  await build("the terminal client", ["-p", "ssetarget-cli"]);
  await build("clients in Rust", ["--locked", "--manifest-path", at("tests/clients/rust/Cargo.toml"), "--target-dir", at("target/clients")]);

  const { CLIENTS, closeClients, rowOf, line, tableIn, titleOf } = await import("../tests/e2e/lib/clients.mjs");
  const { serveAxum } = await import("../tests/e2e/lib/axum.mjs");
  const text = readFileSync(FILE, "utf8");
  const known = tableIn(text);
  const rows = [];
  const axum = await serveAxum();
  try {
    for (const [index, client] of CLIENTS.entries()) {
      const missing = await client.missing?.();
      if (missing) console.log(`${titleOf(client)} is left as it is: ${missing}`);
      const row = missing ? known.get(client.name) : line(await rowOf(client, axum.url, `log-${index}`));
      if (row === undefined) throw new Failure(`${titleOf(client)} has no row yet, and cannot run here: ${missing}.`);
      console.log(row);
      rows.push(row);
    }
  } finally {
    await closeClients();
    await axum.stop();
  }
  writeFileSync(FILE, text.replace(/(?<=<!-- clients -->\n(?:\|.*\n){2})(?:\|.*\n)*(?=<!-- \/clients -->)/, `${rows.join("\n")}\n`));
  process.exit();
});
