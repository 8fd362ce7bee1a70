// The behaviour of each client in docs/clients.md. Clients that cannot run here are left out.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { at } from "../../scripts/lib/run.mjs";
import { serveAxum } from "./lib/axum.mjs";
import { CLIENTS, closeClients, line, rowOf, tableIn, titleOf } from "./lib/clients.mjs";

const table = tableIn(readFileSync(at("docs/clients.md"), "utf8"));

let axum;
before(async () => {
  axum = await serveAxum();
});
after(async () => {
  await closeClients();
  await axum?.stop();
});

test("the table has a row for each client", () => {
  assert.deepEqual([...table.keys()], CLIENTS.map(({ name }) => name));
});

for (const [index, client] of CLIENTS.entries()) {
  const skip = (await client.missing?.()) || false;
  test(`${titleOf(client)} does what docs/clients.md says`, { skip }, async () => {
    assert.equal(line(await rowOf(client, axum.url, `log-${index}`)), table.get(client.name), "run npm run clients");
  });
}
