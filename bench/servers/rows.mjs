// A second entrypoint beside a contestant: counts the rows that its objects write, and how many objects were made.
//
// For the rows it replaces `exec` where all objects of the isolate find it, so it must be asked before there is one.
import { DurableObject } from "cloudflare:workers";
import * as contestant from "./index.js";

export default contestant.default;
export const WorkflowEvents = new Proxy(contestant.WorkflowEvents, {
  construct(...args) {
    made += 1;
    return Reflect.construct(...args);
  },
});

let made = 0;
const cursors = [];

export class RowCounter extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    const prototype = Object.getPrototypeOf(ctx.storage.sql);
    const { exec } = prototype;
    prototype.exec = function counted(...args) {
      const cursor = exec.apply(this, args);
      cursors.push(cursor);
      return cursor;
    };
  }

  written() {
    return cursors.reduce((rows, cursor) => rows + cursor.rowsWritten, 0);
  }
}

/** Answers with how many objects were made, or else with the rows that were written since the first request. */
export const Rows = {
  async fetch(request, env) {
    if (new URL(request.url).pathname === "/made") return new Response(made);
    return new Response(await env.ROWS.getByName("rows").written());
  },
};
