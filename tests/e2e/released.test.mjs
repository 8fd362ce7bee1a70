// Downloads of released tools: from a local server that is good or bad, and from no server.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";

import { TARGETS, fetchReleased, wasmBindgenRelease } from "../../scripts/lib/released.mjs";

const folder = mkdtempSync(path.join(tmpdir(), "ssetarget-released-"));
const { inside } = wasmBindgenRelease("1.2.3", TARGETS["linux-x64"]);
let server;
let base;
const archives = {};

function archive(program) {
  const where = mkdtempSync(path.join(folder, "archive-"));
  mkdirSync(path.dirname(path.join(where, inside)), { recursive: true });
  writeFileSync(path.join(where, inside), program);
  assert.equal(spawnSync("tar", ["-czf", "a.tar.gz", path.dirname(inside)], { cwd: where }).status, 0);
  return readFileSync(path.join(where, "a.tar.gz"));
}

before(async () => {
  archives["/good"] = archive("#!/bin/sh\necho wasm-bindgen 1.2.3\n");
  archives["/broken"] = archive("#!/bin/sh\nexit 1\n");
  server = createServer((request, response) => {
    if (request.url === "/moved") response.writeHead(302, { location: "/good" }).end();
    else if (request.url in archives) response.end(archives[request.url]);
    else if (request.url !== "/silent") response.writeHead(404).end();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${server.address().port}`;
});
after(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
let number = 0;

async function take(url, checksum, where = inside) {
  const into = path.join(folder, `tool-${(number += 1)}`);
  const taken = await fetchReleased("wasm-bindgen", { url, sha256: checksum, inside: where }, into, { answersWithin: 500 });
  const binary = path.join(into, "bin/wasm-bindgen");
  assert.equal(existsSync(binary), taken);
  return taken && spawnSync(binary, ["--version"], { encoding: "utf8" }).stdout;
}

test("a release with the right checksum is used", async () => {
  for (const name of ["/good", "/moved"]) {
    assert.equal(await take(base + name, sha256(archives["/good"])), "wasm-bindgen 1.2.3\n");
  }
});

test("any other is not", async () => {
  const good = sha256(archives["/good"]);
  assert.equal(await take(`${base}/good`, sha256("another")), false);
  assert.equal(await take(`${base}/missing`, good), false);
  assert.equal(await take(`${base}/good`, good, "elsewhere/wasm-bindgen"), false);
  assert.equal(await take(`${base}/broken`, sha256(archives["/broken"])), false);
});

test("a host that cannot be reached, or says nothing, costs a moment", async () => {
  const started = Date.now();
  const nobody = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => nobody.once("listening", resolve));
  const closed = `http://127.0.0.1:${nobody.address().port}/good`;
  await new Promise((resolve) => nobody.close(resolve));
  assert.equal(await take(closed, sha256("")), false);
  assert.equal(await take("http://ssetarget.invalid/good", sha256("")), false);
  assert.equal(await take(`${base}/silent`, sha256("")), false);
  assert.ok(Date.now() - started < 10_000);
});
