// A second entrypoint besides a contestant: counts the rows that its objects write.
//
// It replaces `exec` where all objects of the isolate find it, so it must be asked before there is one.
import { DurableObject } from "cloudflare:workers";
import * as contestant from "./index.js";

export default contestant.default;
export const WorkflowEvents = contestant.WorkflowEvents;

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

/** Answers every request with the rows that were written since the first. */
export const Rows = {
  async fetch(request, env) {
    return new Response(await env.ROWS.getByName("rows").written());
  },
};
