// The requests that every contestant answers:
//
// - `GET /<id>/sse` streams the events of an instance
// - `POST /<id>/append?from=1&batch=1&count=N` appends N batches, one after another
// - `POST /<id>/event?number=1` appends one event, from outside a workflow, as a webhook's Worker does
// - `POST /<id>/append?from=1&batch=1` appends a batch for each byte of the body, as it comes
//
// The one of this library is `../worker`.

/** A Worker of a contestant: `sse(id, request, env)` streams, `log(id, env)` is called with batches, `event(number)` makes one. */
export function contestant({ sse, log, event }) {
  return {
    async fetch(request, env) {
      const [, id, action] = new URL(request.url).pathname.split("/");
      if (action === "sse") return sse(id, request, env);
      if (action === "append") return append(request, log(id, env), event);
      if (action === "event") return one(request, log(id, env), event);
      return new Response("there is nothing here\n", { status: 404 });
    },
  };
}

async function one(request, log, event) {
  const number = Number(new URL(request.url).searchParams.get("number"));
  await log([event(number)]);
  return new Response(`${number}\n`);
}

async function append(request, log, event) {
  const { searchParams } = new URL(request.url);
  const number = (name) => Number(searchParams.get(name) ?? 1);
  const batch = number("batch");
  let next = number("from");
  const once = () => log(Array.from({ length: batch }, () => event(next++)));

  if (searchParams.has("count")) {
    for (let left = number("count"); left > 0; left -= 1) await once();
  } else {
    for await (const chunk of request.body) {
      for (let left = chunk.length; left > 0; left -= 1) await once();
    }
  }
  return new Response(`${next - 1}\n`);
}

/** Fields of every event, which make `data` about 200 bytes long for each contestant. */
export const TIMESTAMP = "2026-11-23T14:37:54.907Z";
export const UUID = "5f0c3b52-7f5a-4f6e-9a35-0d8d3c1f7a11";
export const NOTE = "12345678901234567890";
