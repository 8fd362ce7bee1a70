// A server of runs for tests of the page. It speaks docs/wire.md, serves the page, and needs no Worker. Tests add the
// events with `add`.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";

const FOLDER = new URL("../../../src/page/", import.meta.url);
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const TYPES = { js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8" };

/** Starts a server on a free port, or on `port`. A restart passes the `runs` of the server before it. */
export async function servePage({ port = 0, runs = new Map() } = {}) {
  const connections = new Set();
  const log = [];
  const server = createServer((request, response) => {
    log.push(`${request.method} ${request.url}`);
    answer(runs, request, response).catch((error) => response.destroy(error));
  });
  server.on("connection", (socket) => {
    connections.add(socket);
    socket.on("close", () => connections.delete(socket));
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  const bound = server.address().port;
  return {
    url: `http://127.0.0.1:${bound}`,
    port: bound,
    runs,
    log,
    /** Makes a run. `options`: `snapshot`, `answers`, `session`, `token`. */
    run(id, options = {}) {
      const run = new StoredRun(id, options);
      runs.set(id, run);
      return run;
    },
    /** Stops as a killed process does. */
    async kill() {
      for (const run of runs.values()) run.streams.clear();
      for (const socket of connections) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

class StoredRun {
  constructor(id, options) {
    this.id = id;
    this.options = options;
    this.events = [];
    this.streams = new Set();
    this.answers = [];
    this.snapshot = null;
    this.ended = false;
    /** If set, every request except that of the page gets this status; with `retryAfter`, and is told to wait for so many seconds. */
    this.refuse = null;
    this.retryAfter = null;
    /** Whether all but the page redirects to a login. */
    this.closed = false;
    this.login = "/login";
    /** Whether streams begin with the first event, wherever the client was. */
    this.forgets = false;
    /** Is called with the number of each request of the snapshot, which waits for it. @type {((number: number) => any) | null} */
    this.beforeSnapshot = null;
    this.snapshotsAsked = 0;
    this.session = null;
  }

  /** Appends an event. The end of the workflow closes the streams. */
  add(type, data, id = (this.events.at(-1)?.id ?? this.snapshot?.cursor ?? 0) + 1) {
    const frame = { id, text: `id: ${id}\nevent: ${type}\ndata: ${JSON.stringify(data)}\n\n` };
    this.events.push(frame);
    if (data.kind === "workflow" && data.parentId == null && (type === "completed" || type === "failed")) this.ended = true;
    if (type === "restarted") this.ended = false;
    for (const stream of this.streams) stream.write(frame.text);
    if (this.ended) this.cut();
    return id;
  }

  /** Sends an event that no log has, such as `expired`. */
  send(type, data) {
    for (const stream of this.streams) stream.write(`event: ${type}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  cut() {
    for (const stream of this.streams) stream.end();
    this.streams.clear();
  }
}

async function answer(runs, request, response) {
  const url = new URL(request.url, "http://x");
  const [, first, second] = url.pathname.split("/");
  if (first === "login") return send(response, 200, "text/html; charset=utf-8", "<!doctype html><title>Log in</title>");
  if (first === "ssetarget") return asset(second, response);
  if (first === "empty") return send(response, 200, "text/html; charset=utf-8", "<!doctype html><html lang=en><title>empty</title><body></body>");
  const id = decodeURIComponent(first);
  const run = runs.get(id);
  const wantsPage = second === undefined && (request.headers.accept ?? "").includes("text/html");
  if (wantsPage) return send(response, 200, "text/html; charset=utf-8", html(id, run ? { ...run.options, snapshot: run.options.snapshot || run.snapshot !== null } : { snapshot: true }), { "content-security-policy": POLICY });
  if (!run) return send(response, 404, "text/plain", "unknown");
  if (run.closed) return response.writeHead(302, { location: run.login }).end();
  if (second === "session") return session(run, await body(request), response);
  if (run.refuse !== null) return send(response, run.refuse, "text/plain", "no", run.retryAfter === null ? {} : { "retry-after": run.retryAfter });
  if (run.options.session && run.session === null) return send(response, 401, "text/plain", "no");
  if (second === "event") {
    const sent = JSON.parse(await body(request));
    run.answers.push(sent);
    if (run.options.refusesAnswers) return send(response, 409, "text/plain", run.options.refusesAnswers);
    await run.onAnswer?.(sent);
    return send(response, 200, "application/json", JSON.stringify({ sent: sent.type }));
  }
  if (second === undefined) {
    if (run.snapshot === null) return send(response, 406, "text/plain", "no snapshot");
    run.snapshotsAsked += 1;
    await run.beforeSnapshot?.(run.snapshotsAsked);
    run.snapshotText ??= new WeakMap();
    if (!run.snapshotText.has(run.snapshot)) run.snapshotText.set(run.snapshot, JSON.stringify(run.snapshot));
    return send(response, 200, "application/json", run.snapshotText.get(run.snapshot));
  }
  return stream(run, url, request, response);
}

function stream(run, url, request, response) {
  const asked = request.headers["last-event-id"] ?? url.searchParams.get("lastEventId");
  const after = run.forgets || asked === null || asked === undefined ? 0 : Number(asked);
  const head = run.events.at(-1)?.id ?? run.snapshot?.cursor ?? 0;
  if (run.ended && after >= head && asked != null) return response.writeHead(204).end();
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  if (request.method === "HEAD") return response.end();
  response.write(`:\nretry: ${run.options.retry ?? 100}\n\n`);
  if (after > head) {
    response.write(`event: reset\ndata: ${JSON.stringify({ requested: after, oldest: run.events[0]?.id ?? null, head })}\n\n`);
  }
  response.write(run.events.filter(({ id }) => after > head || id > after).map(({ text }) => text).join(""));
  if (run.ended) return response.end();
  run.streams.add(response);
  response.on("close", () => run.streams.delete(response));
}

function session(run, token, response) {
  if (token !== run.options.token) return send(response, 401, "text/plain", "no");
  run.session = token;
  send(response, 200, "application/json", JSON.stringify({ expiresIn: 60 }));
}

function asset(name, response) {
  const type = TYPES[name?.split(".").at(-1)];
  if (!type) return send(response, 404, "text/plain", "unknown");
  send(response, 200, type, readFileSync(new URL(name, FOLDER)), { "access-control-allow-origin": "*" });
}

/** Makes the HTML of `RunPage::html` in src/page/mod.rs. */
function html(id, { snapshot, answers, session: hasSession }) {
  const run = `/${encodeURIComponent(id)}`;
  const attributes = [snapshot && `snapshot="${run}"`, answers && `answer="${run}/event"`, hasSession && `session="${run}/session"`].filter(Boolean).join(" ");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>run</title>
<link rel="stylesheet" href="/ssetarget/workflow-run.css?v=1">
<script type="module" src="/ssetarget/workflow-run.js?v=1"></script>
</head>
<body>
<main>
<workflow-run src="${run}/sse" label="${id.replaceAll("&", "&amp;").replaceAll('"', "&quot;")}" heading="1" fills deep-link titled ${attributes}></workflow-run>
</main>
</body>
</html>
`;
}

function send(response, status, type, content, headers = {}) {
  response.writeHead(status, { "content-type": type, ...headers }).end(content);
}

async function body(request) {
  let text = "";
  for await (const chunk of request.setEncoding("utf8")) text += chunk;
  return text;
}
