// The terminal client against the demo, the test Worker and the axum example: pipes, cuts, restarts, answers, exit codes, a real terminal.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { dataFolder, serveAxum } from "./lib/axum.mjs";
import { isWaiting, serve, startRun } from "./lib/demo.mjs";
import { harness } from "./lib/harness.mjs";
import { freePort } from "./lib/ports.mjs";
import { cuttingProxy } from "./lib/proxy.mjs";
import { start } from "./lib/script.mjs";
import { open, readAll } from "./lib/sse.mjs";
import { inTmux, noTmux, terminal } from "./lib/terminal.mjs";
import { becomes } from "./lib/wait.mjs";

const parsed = (stdout) => stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
/** Compares the program's output with the events of a client. */
const sameLog = (stdout, events) =>
  assert.deepEqual(
    parsed(stdout).map(({ id, event, data }) => [id, event, data]),
    events.map(({ id, type, json }) => [String(id), type, json]),
  );

describe("the demo", () => {
  let demo;
  before(async () => {
    demo = await serve();
  });
  after(() => demo?.stop());

  test("a run is followed as JSON while it goes on, answered, and ends with 0", async () => {
    const id = await startRun(demo.url);
    const watching = terminal(["watch", `${demo.url}/${id}`, "--json"]);
    await watching.line(/"kind":"waitForEvent"/);
    const sent = await terminal(["send", `${demo.url}/${id}`, 'waiting={"by":"Ann"}']);
    assert.deepEqual([sent.code, sent.stdout, sent.stderr], [0, "", "ssetarget: sent waiting\n"]);
    const { code, stdout } = await watching;
    assert.equal(code, 0);
    sameLog(stdout, await readAll(`${demo.url}/${id}/sse`));
    const late = await terminal(["send", `${demo.url}/${id}`, "waiting"]);
    assert.deepEqual([late.code, /the run has ended/.test(late.stderr)], [1, true]);
  });

  test("a connection that is cut in the middle of frames loses and doubles nothing", async () => {
    const id = await startRun(demo.url);
    const proxy = await cuttingProxy(demo.url, { cuts: [90, 333, 500, 7, 801], retry: 50 });
    const watching = terminal(["watch", `${proxy.url}/${id}/sse`, "--json"]);
    await watching.line(/"kind":"waitForEvent"/);
    assert.equal((await terminal(["send", `${demo.url}/${id}`, "waiting"])).code, 0);
    const { code, stdout, stderr } = await watching;
    assert.equal(code, 0);
    sameLog(stdout, await readAll(`${demo.url}/${id}/sse`));
    assert.ok(stderr.match(/the connection is lost/g).length >= 5, stderr);
    await proxy.close();
  });

  test("lines for people, and the state of a run that is over", async () => {
    const id = await startRun(demo.url);
    const stream = await open(`${demo.url}/${id}/sse`);
    await stream.until(isWaiting);
    const watching = terminal(["watch", `${demo.url}/${id}`, "--send", "waiting"]);
    const { code, stdout, stderr } = await watching;
    assert.equal(code, 0);
    assert.match(stderr, /sent waiting/);
    for (const line of stdout.trimEnd().split("\n")) assert.match(line, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  [a-z_]+ +\S/);
    assert.match(stdout, /started +wait for approval-1\.waitForEvent  waits for "waiting": --send waiting  until 20/);
    for (const args of [[], ["--from", "latest"], ["--since", "1s"], ["--progress", "none"]]) {
      assert.equal((await terminal(["watch", `${demo.url}/${id}`, ...args])).code, 0, args.join(" "));
    }
    const none = await terminal(["watch", `${demo.url}/${id}`, "--progress", "none"]);
    assert.deepEqual([none.stdout, none.stderr], ["", ""]);
    const platform = await terminal(["watch", `${demo.url}/${id}/instance/sse`]);
    assert.equal(platform.code, 0);
    assert.match(platform.stdout, /step_completed .*\n[^]*workflow_completed/);
    stream.close();
  });

  test("an unknown run is 5, a time limit 6", async () => {
    const unknown = await terminal(["watch", `${demo.url}/nobody`]);
    assert.deepEqual([unknown.code, unknown.stdout], [5, ""]);
    const id = await startRun(demo.url);
    const limited = await terminal(["watch", `${demo.url}/${id}`, "--timeout", "4s"]);
    assert.equal(limited.code, 6);
    assert.match(limited.stderr, /the run goes on/);
  });

  test("a live tree in terminals of any size, down to the end", { skip: noTmux }, async () => {
    for (const [columns, rows] of [[80, 24], [40, 10], [200, 60]]) {
      const id = await startRun(demo.url, { params: { workMs: 1000 } });
      const tmux = inTmux(["watch", `${demo.url}/${id}`], { columns, rows });
      try {
        await tmux.until(/ \d+ %/);
        const waiting = await tmux.until(/wait for approval waits for/);
        const tree = waiting.findIndex((line) => line.includes(`${id.slice(0, 8)}`) && /waits|running/.test(line));
        const drawn = waiting.slice(tree).filter(Boolean);
        assert.ok(tree >= 0 && drawn.length <= Math.min(rows - 2, 12), waiting.join("\n"));
        for (const line of waiting) assert.ok([...line].length <= columns);
        // After a change of the terminal's size nothing is left of the old picture.
        tmux.resize(columns - 8, rows);
        const shown = () => tmux.screen().filter((line) => line.includes("wait for approval")).length;
        await becomes(shown, 1, "lines of the wait");
        await new Promise((resolve) => setTimeout(resolve, 400));
        assert.equal(shown(), 1, tmux.screen().join("\n"));
        assert.equal((await terminal(["send", `${demo.url}/${id}`, "waiting"])).code, 0);
        const ended = await tmux.until(/exit code \d+/);
        assert.ok(ended.includes("exit code 0"), ended.join("\n"));
        const history = tmux.history();
        const done = history.filter((line) => /^✔ wait for approval/.test(line));
        assert.equal(done.length, 1, history.join("\n"));
        assert.equal(history.filter((line) => /^[├└│]/.test(line)).length, 0, history.join("\n"));
      } finally {
        tmux.close();
      }
    }
  });

  test("Ctrl-C in a terminal leaves the run alone", { skip: noTmux }, async () => {
    const id = await startRun(demo.url);
    const tmux = inTmux(["watch", `${demo.url}/${id}`], { columns: 120 });
    try {
      await tmux.until(/waits for/);
      tmux.key("C-c");
      const lines = await tmux.until(/exit code \d+/);
      assert.ok(lines.includes("exit code 130"), lines.join("\n"));
      assert.match(lines.join("\n"), /the run goes on/);
    } finally {
      tmux.close();
    }
    assert.equal((await terminal(["watch", `${demo.url}/${id}`, "--send", "waiting", "--progress", "none"])).code, 0);
  });
});

describe("the test Worker", () => {
  let server;
  before(async () => {
    server = await harness();
  });
  after(() => server?.stop());

  const WAITS = [{ do: { name: "first" } }, { wait: { name: "answer", type: "go" } }];

  test("a run that fails is 1, one that is terminated 3, in both logs", async () => {
    const failing = await start(server, [{ do: { name: "bad", attempts: [{ fail: "no\u001b[2J" }], retries: { limit: 0, delay: 0, backoff: "constant" } } }]);
    const failed = await terminal(["watch", failing.sse]);
    assert.equal(failed.code, 1);
    assert.match(failed.stdout, /failed +bad-1 .*no\ufffd\[2J/);
    assert.equal((await terminal(["watch", `${failing.url}/instance/sse`])).code, 1);

    const run = await start(server, WAITS);
    const watching = terminal(["watch", run.sse]);
    await watching.line(/waits for "go"/);
    await run.act("end");
    const ended = await watching;
    assert.equal(ended.code, 3, ended.stdout + ended.stderr);
    assert.equal((await terminal(["watch", `${run.url}/instance/sse`, "--json"])).code, 3);
  });

  test("a run that is restarted is watched to its end", async () => {
    const run = await start(server, WAITS);
    const watching = terminal(["watch", run.sse, "--json"]);
    await watching.line(/waitForEvent/);
    await run.act("again");
    await watching.line(/"event":"restarted"[^]*waitForEvent/);
    await run.event("go");
    const { code, stdout } = await watching;
    assert.equal(code, 0);
    sameLog(stdout, await run.readAll());
  });
});

describe("over TLS", { skip: spawnSync("openssl", ["version"]).status === 0 ? false : "openssl is missing" }, () => {
  let server, folder, authority;
  before(async () => {
    folder = dataFolder();
    authority = path.join(folder, "cert.pem");
    const key = path.join(folder, "key.pem");
    const names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
    const made = spawnSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", key, "-out", authority, ...names]);
    assert.equal(made.status, 0, String(made.stderr));
    server = createServer({ key: readFileSync(key), cert: readFileSync(authority) }, (request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.end('id: 1\nevent: workflow_completed\ndata: {"instanceId":"a","eventId":1,"timestamp":0,"type":"workflow_completed"}\n\n');
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  });
  after(() => server?.close());

  test("a certificate of an authority that the machine trusts is good, any other is not", async () => {
    const url = `https://localhost:${server.address().port}/o-1`;
    const args = ["watch", url, "--json", "--retry-for", "1s"];
    const trusted = await terminal(args, { env: { SSL_CERT_FILE: authority } });
    assert.deepEqual([trusted.code, parsed(trusted.stdout).length], [0, 1], trusted.stderr);
    const other = await terminal(args);
    assert.deepEqual([other.code, other.stdout], [6, ""]);
    assert.match(other.stderr, /certificate/i);
  });
});

describe("the axum example", () => {
  test("a killed and restarted server is not the end", async () => {
    const env = { DATA_DIR: dataFolder() };
    // A port that nobody else gets while the server is down.
    const port = await freePort();
    let server = await serveAxum({ ...env, PORT: port });
    const say = (text, more = "") => fetch(`${server.url}/room?type=note${more}`, { method: "POST", body: text });
    await say("first");
    const watching = terminal(["watch", `${server.url}/room`, "--json"]);
    await watching.line(/first/);
    await server.kill();
    server = await serveAxum({ ...env, PORT: port });
    await say("\u001b[2Jsecond");
    await watching.line(/second/);
    await say("third", "&terminal=true");
    const { code, stdout } = await watching;
    assert.equal(code, 0);
    assert.deepEqual(parsed(stdout), [
      { id: "1", event: "note", data: "first" },
      { id: "2", event: "note", data: "\u001b[2Jsecond" },
      { id: "3", event: "note", data: "third" },
    ]);
    assert.ok(!stdout.includes("\u001b"));
    await server.stop();
  });

  test("a job that traces itself is a run like any other", async () => {
    const server = await serveAxum({ DATA_DIR: ":memory:" });
    await fetch(`${server.url}/?id=job-1&workMs=20`, { method: "POST", redirect: "manual" });
    const { code, stdout } = await terminal(["watch", `${server.url}/job-1`]);
    assert.equal(code, 0);
    assert.match(stdout, /failed +notify-1  the mail server does not answer/);
    await server.stop();
  });
});
