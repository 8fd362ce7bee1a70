// npm start: builds the demo Worker and serves it on http://localhost:9875 (or $PORT).
import net from "node:net";
import { Failure, at, foreground, isStopping, main } from "./lib/run.mjs";
import { buildWorker } from "./lib/build.mjs";
import { modernNode, nodeEnv } from "./lib/setup.mjs";

const HOST = "127.0.0.1";

main(async () => {
  const port = parsePort(process.env.PORT ?? "9875");
  await refuseBusy(port); // before minutes of building
  await buildWorker("demo");
  await refuseBusy(port); // otherwise wrangler fails, and the server on that port looks like ours

  const args = ["dev", "--port", port, "--ip", HOST, "--show-interactive-dev-session=false"];
  const env = nodeEnv({ SSETARGET_PREBUILT: "1" });
  const serving = foreground(modernNode(), [at("node_modules/wrangler/bin/wrangler.js"), ...args.map(String)], { env });
  announce(port);

  const code = await serving;
  // Exit here, not at the end of the event loop: announce() may still be polling.
  process.exit(isStopping() ? 0 : (code ?? 1));
});

async function announce(port) {
  while (!(await answers(port))) await new Promise((resolve) => setTimeout(resolve, 250));
  const url = `http://localhost:${port}`;
  console.log(`
ssetarget demo: ${url}  (POST / starts a run)

  curl -i -X POST ${url}            # start a run; the Location header is /<id>/sse
  curl -N ${url}/<id>/sse           # watch it: past events, then live ones
  curl -X POST ${url}/<id>/event    # send the event it waits for
`);
}

async function answers(port) {
  try {
    const response = await fetch(`http://${HOST}:${port}/`, { method: "HEAD", signal: AbortSignal.timeout(5000) });
    await response.body?.cancel();
    return true;
  } catch {
    return false;
  }
}

function parsePort(text) {
  const port = Number(text);
  if (Number.isInteger(port) && port >= 1 && port <= 65535) return port;
  throw new Failure(`PORT must be a number from 1 to 65535, not ${JSON.stringify(text)}.`);
}

function refuseBusy(port) {
  return new Promise((resolve, reject) => {
    const probe = net.createServer();
    probe.once("error", ({ code }) => {
      const reason = { EADDRINUSE: "is in use", EACCES: "is not open to this user" }[code] ?? `cannot be used (${code})`;
      reject(new Failure(`port ${port} ${reason}. Choose another one: PORT=9876 npm start`));
    });
    probe.listen(port, HOST, () => probe.close(resolve));
  });
}
