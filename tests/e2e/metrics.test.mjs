// The counters of the axum example, read by Prometheus's own parsers.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";

import { dataFolder, serveAxum } from "./lib/axum.mjs";
import { becomes } from "./lib/wait.mjs";
import { ensurePython } from "../../scripts/lib/python.mjs";

const { missing, python } = await ensurePython("tests/e2e/lib/prometheus.txt");

/** Runs code, and returns its output. */
function run(code, input) {
  const { status, stdout, stderr } = spawnSync(python, ["-c", code], { encoding: "utf8", input });
  assert.equal(status, 0, stderr);
  return stdout;
}

/** Prints all families as JSON: by name, their type, help and samples. */
const PARSE = `
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
text = sys.stdin.read()
which, text = text.split("\\n", 1)
families = (open_metrics if which == "open" else prometheus)(text)
print(json.dumps({f.name: [f.type, f.documentation, [[s.name, s.labels, s.value] for s in f.samples]] for f in families}))
`;

const FORMATS = [
  { which: "text", accept: "text/plain", type: "text/plain; version=0.0.4; charset=utf-8" },
  { which: "open", accept: "application/openmetrics-text;version=1.0.0", type: "application/openmetrics-text; version=1.0.0; charset=utf-8" },
];

describe("the counters of a server", { skip: missing }, () => {
  // The folder's name is the value of a label.
  const folder = path.join(dataFolder(), 'a "b" \\ c\nd é');
  let server;
  before(async () => {
    mkdirSync(folder, { recursive: true });
    server = await serveAxum({ DATA_DIR: folder });
  });
  after(() => server?.kill());

  async function read({ which, accept, type }) {
    const response = await fetch(`${server.url}/metrics`, { headers: { accept } });
    assert.equal(response.status, 200);
    assert.equal(response.headers.get("content-type"), type);
    return JSON.parse(run(PARSE, `${which}\n${await response.text()}`));
  }

  test("are text that Prometheus and OpenMetrics accept, and they count", async () => {
    const counts = async (format) => {
      const families = await read(format);
      const all = {};
      for (const [type, help, samples] of Object.values(families)) {
        assert.match(help, /^[A-Z].*\.$/);
        for (const [name, { store, ...labels }, value] of samples) {
          assert.equal(store, folder);
          assert.equal(type, name.endsWith("_total") ? "counter" : "gauge");
          all[[name, ...Object.values(labels)].join(" ")] = value;
        }
      }
      return all;
    };
    for (const format of FORMATS) {
      const fresh = await counts(format);
      assert.equal(Object.keys(fresh).length, 22);
      assert.deepEqual(Object.values(fresh).filter((value) => value !== 0), []);
    }

    for (const [index, note] of ["one", "two"].entries()) {
      const stored = await fetch(`${server.url}/room?type=note&terminal=${index === 1}`, { method: "POST", body: note });
      assert.equal(stored.status, 201);
    }
    const log = await (await fetch(`${server.url}/room/sse`)).text();
    assert.equal((await fetch(`${server.url}/room/sse`, { headers: { "last-event-id": "x" } })).status, 400);
    assert.equal((await fetch(`${server.url}/nothing/sse`)).status, 404);
    assert.equal((await fetch(`${server.url}/room/sse`, { method: "DELETE" })).status, 405);

    // A viewer is gone a moment after it has read the end.
    await becomes(async () => (await counts(FORMATS[0])).ssetarget_viewers, 0);
    for (const format of FORMATS) {
      const { ssetarget_viewers: viewers, ...counted } = await counts(format);
      assert.equal(viewers, 0);
      const changed = Object.entries(counted).filter(([, value]) => value !== 0);
      assert.deepEqual(Object.fromEntries(changed), {
        "ssetarget_events_appended_total": 2,
        "ssetarget_pages_read_total": 1,
        "ssetarget_refusals_total 400": 1,
        "ssetarget_refusals_total 404": 1,
        "ssetarget_refusals_total 405": 1,
        "ssetarget_sent_bytes_total": Buffer.byteLength(log),
        "ssetarget_streams_opened_total": 1,
      });
    }
  });
});
