// The least work that an index of runs in JavaScript can do for the same requests: no versions, no checks, no retention.
import { DurableObject } from "cloudflare:workers";

export class RunIndex extends DurableObject {
  #sql;

  constructor(ctx, env) {
    super(ctx, env);
    this.#sql = ctx.storage.sql;
    this.#sql.exec("CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, began INTEGER NOT NULL, entry TEXT NOT NULL) WITHOUT ROWID");
    this.#sql.exec("CREATE INDEX IF NOT EXISTS runs_began ON runs (began, id)");
    this.#sql.exec("CREATE TABLE IF NOT EXISTS changes (id INTEGER PRIMARY KEY, frame TEXT NOT NULL)");
  }

  take(report) {
    const { id, began, entry } = JSON.parse(report);
    const data = JSON.stringify(entry);
    this.#sql.exec("INSERT OR REPLACE INTO runs (id, began, entry) VALUES (?, ?, ?)", id, began, data);
    this.#sql.exec("INSERT INTO changes (frame) VALUES (?)", `event: run\ndata: ${data}\n\n`);
    return true;
  }

  fetch() {
    const rows = this.#sql.exec("SELECT entry FROM runs ORDER BY began DESC, id DESC LIMIT 100").raw();
    return new Response(`{"runs":[${[...rows].join(",")}]}`, { headers: { "content-type": "application/json" } });
  }
}
