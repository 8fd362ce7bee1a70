// A receiver of traces that behaves as a test wants, and rotel, a real one.
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import path from "node:path";
import { freePort } from "./ports.mjs";

/**
 * Starts a receiver. `behave` decides about each request: it returns `{ status, headers, body }`, or a promise of it,
 * or
 * nothing for `200`. Resolves to `{ url, requests, until, stop, behave }`; `requests` are `{ time, path, headers, body }`.
 */
export async function receiver({ port = 0, behave = () => {} } = {}) {
  const waiting = new Set();
  const self = { behave, requests: [] };
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const { method, url, headers } = request;
    self.requests.push({ time: Date.now(), method, path: url, headers, body: Buffer.concat(chunks).toString() });
    waiting.forEach((look) => look());
    const answer = (await self.behave(self.requests.length)) ?? {};
    response.writeHead(answer.status ?? 200, { "content-type": "application/json", ...answer.headers });
    response.end(answer.body ?? "{}");
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return Object.assign(self, {
    port: server.address().port,
    url: `http://127.0.0.1:${server.address().port}`,
    /** Resolves once there were this many requests. */
    until: (count) =>
      new Promise((resolve) => {
        const look = () => self.requests.length >= count && waiting.delete(look) | resolve() | true;
        waiting.add(look);
        look();
      }),
    stop: () =>
      new Promise((resolve) => {
        server.close(resolve);
        server.closeAllConnections();
      }),
  });
}

/** Starts rotel, which prints everything that it receives. Resolves to `{ url, spans, stop }`. */
export async function rotel(packages) {
  const [http, grpc] = [await freePort(), await freePort()];
  const args = ["start", "--otlp-http-endpoint", `127.0.0.1:${http}`, "--otlp-grpc-endpoint", `127.0.0.1:${grpc}`];
  args.push("--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed");
  const child = spawn(path.join(packages, "rotel/rotel-agent"), args, { stdio: ["ignore", "pipe", "pipe"] });
  const ended = new Promise((resolve) => child.once("close", resolve));
  process.once("exit", () => child.kill("SIGKILL"));
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (output += text));
  const url = `http://127.0.0.1:${http}`;
  for (;;) {
    const answer = await fetch(`${url}/v1/traces`, { method: "POST", headers: { "content-type": "application/json" }, body: '{"resourceSpans":[]}' }).catch(() => null);
    if (answer?.status === 200) break;
    if (child.exitCode !== null) throw new Error(`rotel ended: ${output}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return {
    url,
    output: () => output,
    spans: () => parse(output),
    stop: () => {
      child.kill("SIGKILL");
      return ended;
    },
  };
}

/** The spans of rotel's dump. */
function parse(output) {
  return output
    .split(/^Span #\d+$/m)
    .slice(1)
    .map((text) => {
      const field = (name) => text.match(new RegExp(`^ *${name} *: ?(.*)$`, "m"))?.[1] ?? "";
      return {
        trace: field("Trace ID"),
        id: field("ID"),
        parent: field("Parent ID"),
        name: field("Name"),
        start: field("Start time"),
        end: field("End time"),
        status: { STATUS_CODE_UNSET: 0, STATUS_CODE_OK: 1, STATUS_CODE_ERROR: 2 }[field("Status code")],
        message: field("Status message"),
        events: [...text.matchAll(/^SpanEvent #\d+\n *-> Name: (.*)$/gm)].map((match) => match[1]),
      };
    });
}
