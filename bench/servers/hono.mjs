// hono's `streamSSE`, as its documentation shows it, in an object so that requests share memory. Not in the
// benchmark: for docs/conformance.md.
//
// - `GET /<id>/sse` streams what is sent from then on
// - `POST /<id>?type=message` sends the body
import { DurableObject } from "cloudflare:workers";
import { Hono } from "hono";
import { streamSSE } from "hono/streaming";

export class WorkflowEvents extends DurableObject {
  #viewers = new Set();
  #last = 0;
  #app = new Hono()
    .get("/:id/sse", (context) =>
      streamSSE(context, async (stream) => {
        this.#viewers.add(stream);
        await new Promise((resolve) => stream.onAbort(resolve));
        this.#viewers.delete(stream);
      }),
    )
    .post("/:id", async (context) => {
      const event = context.req.query("type");
      // `writeSSE` throws at these.
      if (/[\r\n]/.test(event)) return context.text("a type is one line", 400);
      // `text()` would take a byte order mark away.
      const data = new TextDecoder("utf-8", { ignoreBOM: true }).decode(await context.req.arrayBuffer());
      const message = { id: String((this.#last += 1)), event, data };
      for (const stream of this.#viewers) stream.writeSSE(message).catch(() => this.#viewers.delete(stream));
      return context.text("sent");
    });

  fetch(request) {
    return this.#app.fetch(request);
  }
}

export default {
  fetch(request, env) {
    const [, id] = new URL(request.url).pathname.split("/");
    return env.EVENTS.getByName(id).fetch(request);
  },
};
