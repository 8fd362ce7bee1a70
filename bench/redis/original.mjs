// A server of the original 4.0.5 on Redis, as its README shows. Said of both contestants:
//
// - `GET /sse` streams the log
// - `POST /dispatch?writer=1&count=N&burst=1&pauseMs=0` dispatches N events with `{writer, n}`, so many
//   at the same time, with a pause after each burst
// - `POST /dispatch?writer=1&count=N&equal` dispatches N events that are equal
//
// node original.mjs REDIS_URL LOG, prints the port.
import http from "node:http";
import { Redis } from "ioredis";
import { SSETarget } from "@oselvar/ssetarget";
import { RedisEventStore } from "@oselvar/ssetarget/redis";

const [url, log] = process.argv.slice(2);
const target = new SSETarget("/sse", new RedisEventStore(new Redis(url), log));

const server = http.createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://server");
  if (pathname === "/sse") return stream(request, response);
  const number = (name, otherwise) => Number(searchParams.get(name) ?? otherwise);
  const [count, burst, writer] = [number("count"), number("burst", 1), number("writer")];
  for (let first = 1; first <= count; first += burst) {
    const numbers = Array.from({ length: burst }, (_, index) => (searchParams.has("equal") ? 0 : first + index));
    await Promise.all(numbers.map((n) => target.dispatchEvent({ type: "tick", writer, n })));
    await new Promise((resolve) => setTimeout(resolve, number("pauseMs", 0)));
  }
  response.end("dispatched\n");
});

/** Between Node's server, for which the package has no adapter, and its `fetch`. */
async function stream(request, response) {
  const answer = await target.fetch(new Request(`http://server${request.url}`, { headers: headersOf(request) }));
  response.writeHead(answer.status, Object.fromEntries(answer.headers));
  const reader = answer.body.getReader();
  response.once("close", () => reader.cancel().catch(() => {}));
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    response.write(value);
  }
  response.end();
}

function headersOf(request) {
  const id = request.headers["last-event-id"];
  return id === undefined ? {} : { "last-event-id": id };
}

server.listen(0, "127.0.0.1", () => console.log(server.address().port));
