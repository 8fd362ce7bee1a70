// npm run tools:pin: downloads the released binaries of wasm-bindgen of Cargo.lock's version, for every platform, and
// writes their checksums into scripts/lib/released.json. Run it where the network allows it, whenever the version in
// Cargo.lock changes. Look at the difference, and compare one checksum with that on the release's page.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";

import { TARGETS, wasmBindgenRelease } from "./lib/released.mjs";
import { Failure, at, main } from "./lib/run.mjs";
import { lockedVersion } from "./lib/setup.mjs";

main(async () => {
  const version = lockedVersion("wasm-bindgen");
  const checksums = {};
  for (const target of Object.values(TARGETS)) {
    const { url } = wasmBindgenRelease(version, target);
    const response = await fetch(url).catch((error) => {
      throw new Failure(`${url} cannot be reached (${error.cause?.code ?? error.message}).`);
    });
    if (!response.ok) throw new Failure(`${url} answers ${response.status}.`);
    checksums[target] = createHash("sha256").update(Buffer.from(await response.arrayBuffer())).digest("hex");
    console.log(`${target}: ${checksums[target]}`);
  }
  const file = at("scripts/lib/released.json");
  const released = JSON.parse(readFileSync(file, "utf8"));
  released["wasm-bindgen"] = { version, checksums };
  writeFileSync(file, `${JSON.stringify(released, null, 2)}\n`);
});
