// A proxy that counts requests and cuts connections, as bad networks do.
import http from "node:http";

/**
 * Forwards to `target`. The response to each of the first `cuts.length` streams is cut off after that many bytes,
 * anywhere in an event, or with `whole` at the end of that event. With `retry`, each stream tells the client to come
 * back after this many milliseconds: the default is seconds.
 *
 * Resolves to `{ url, requests, close }`; `requests` are `{ method, url, lastEventId, status }`.
 */
export async function cuttingProxy(target, { cuts = [], whole = false, retry } = {}) {
  const requests = [];
  let streams = 0;
  const server = http.createServer((request, response) => {
    const seen = { method: request.method, url: request.url, lastEventId: request.headers["last-event-id"] ?? null, status: null };
    requests.push(seen);
    const { host: _, ...headers } = request.headers;
    const forwarded = http.request(target + request.url, { method: request.method, headers }, (answer) => {
      seen.status = answer.statusCode;
      response.writeHead(answer.statusCode, answer.headers);
      const isStream = answer.headers["content-type"] === "text/event-stream";
      if (!isStream) return void answer.pipe(response);

      const cut = cuts[streams++] ?? Infinity;
      let passed = Buffer.alloc(0);
      if (retry !== undefined) response.write(`retry: ${retry}\n`); // becomes part of the first event
      answer.on("data", (chunk) => {
        const begin = passed.length;
        passed = Buffer.concat([passed, chunk]);
        const end = whole ? endOfEvent(passed, cut) : cut;
        response.write(passed.subarray(begin, end));
        if (passed.length < end) return;
        seen.isCut = true;
        forwarded.destroy();
        response.socket?.destroySoon();
      });
      answer.on("end", () => response.end());
      answer.on("error", () => {}); // cut, by this proxy or by the client
    });
    forwarded.on("error", () => {});
    response.on("close", () => forwarded.destroy());
    request.pipe(forwarded);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    requests,
    close() {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

function endOfEvent(bytes, from) {
  const blank = bytes.indexOf("\n\n", from);
  return blank === -1 ? Infinity : blank + 2;
}

/** Returns a generator of reproducible numbers from 0 to 1. */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
