// Makes each call three times: to the platform's own API in JavaScript, to our Worker in Rust, and
// to that Worker with its steps wrapped in a `WorkflowEventStep`.
import { open, readAll } from "./sse.mjs";

/** The three sides, by the names of their columns in the table. */
export function sides(server) {
  return {
    javascript: new Side(`${server.url}/javascript`, ""),
    rust: new Side(`${server.url}/rust`, ""),
    events: new Side(`${server.url}/rust`, "-events"),
  };
}

class Side {
  constructor(url, suffix) {
    Object.assign(this, { url, suffix });
  }

  get isWrapped() {
    return this.suffix !== "";
  }

  /** Makes a call and resolves to its result: `{ok}` or `{error}`. Ids are as the caller wrote them. */
  async call(call) {
    const response = await fetch(`${this.url}/alpha/call`, { method: "POST", body: JSON.stringify(this.#rename(call)) });
    if (response.status !== 200) throw new Error(`${JSON.stringify(call)}: ${response.status} ${await response.text()}`);
    const { kind, ...result } = await response.json();
    return this.#clean(result);
  }

  /** Makes a call that must succeed. */
  async ok(call) {
    const { ok, error } = await this.call(call);
    if (error !== undefined) throw new Error(`${JSON.stringify(call)}: ${error}`);
    return ok;
  }

  params(ops) {
    return { ops, wrapped: this.isWrapped };
  }

  create(id, ops) {
    return this.ok({ create: { id, params: this.params(ops) } });
  }

  /** Resolves to the status once it is one of these, or a final one. */
  async reached(id, ...wanted) {
    for (;;) {
      const status = await this.ok({ status: id });
      if (wanted.includes(status.status)) return status;
      if (ENDS.includes(status.status)) {
        if (wanted.length > 0) throw new Error(`${id} is not ${wanted} but ${JSON.stringify(status)}`);
        return status;
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async gate(name, path) {
    const response = await fetch(`${this.url}/gate/${name}${this.suffix}/${path}`);
    return this.#clean(await response.json());
  }

  /** Resolves to the records once there are this many. */
  async records(name, atLeast = 0) {
    for (;;) {
      const records = await this.gate(name, "records");
      if (records.length >= atLeast) return records;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /**
   * The platform's log of an instance up to the first event of this type, or to its end, without
   * the parts that differ from run to run.
   */
  async platform(id, until = "") {
    const response = await fetch(`${this.url}/alpha/${id}${this.suffix}/platform?until=${until}`);
    const log = await response.json();
    return log.map(({ instanceId, timestamp, params, ...event }) => {
      if (event.type === "workflow_completed") delete event.output;
      return event;
    });
  }

  /** The events that viewers get, if the steps are wrapped. */
  events(id) {
    return readAll(`${this.url}/alpha/${id}${this.suffix}/sse`);
  }

  /** Renames the ids and gates of a side that shares its Worker with another. */
  #rename(call) {
    const names = new Set(["id", "gate", "record", "get", "status", "pause", "resume", "delete"]);
    const rename = (value, key) => {
      if (typeof value === "string") return names.has(key) && !BAD_IDS.has(value) ? `${value}${this.suffix}` : value;
      if (Array.isArray(value)) return value.map((each) => rename(each, key === "deleteBatch" ? "id" : undefined));
      if (value === null || typeof value !== "object") return value;
      return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, rename(each, name)]));
    };
    return rename(call);
  }

  #clean(result) {
    const text = JSON.stringify(result, (key, value) => (ONLY_OURS.has(key) ? undefined : value));
    return JSON.parse(this.isWrapped ? text.replaceAll(this.suffix, "") : text);
  }
}

/** Refused ids are not renamed, so that all sides refuse them for the same reason. */
export const BAD_IDS = new Set(["", "-a", "a b", "x".repeat(101)]);

/** Fields that only the Worker in Rust has. */
const ONLY_OURS = new Set(["calls", "kind", "isTimeout", "requests"]);

const ENDS = ["complete", "errored", "terminated"];

/** Returns a table of the comparisons. */
export function table(rows) {
  const cut = (value) => {
    const text = JSON.stringify(value) ?? "";
    return text.length > 60 ? `${text.slice(0, 57)}...` : text;
  };
  return rows.map(({ name, same, result }) => `${same ? "same" : "DIFFERENT"} | ${name} | ${cut(result)}`);
}
