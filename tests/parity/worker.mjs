// The Worker of tests/worker in plain JavaScript, as far as the parity tests need it: the same
// requests, the same scripts, with direct calls of the platform. It forwards to the Worker in Rust.
//
// - `/rust/...` is the Worker in Rust, `/javascript/...` this one
// - `POST /class/<method>` calls a method of the workflow class in Rust by RPC
import { DurableObject, RpcTarget, WorkflowEntrypoint } from "cloudflare:workers";
import { NonRetryableError } from "cloudflare:workflows";

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const [, side, ...segments] = url.pathname.split("/");
    if (side === "rust") {
      url.pathname = segments.join("/");
      return env.RUST.fetch(new Request(url, request));
    }
    if (side === "class") return Response.json(await attempt(() => callClass(env, segments[0], request)));
    const [name, second, third] = segments;
    if (name === "gate") return env.GATE.getByName(second).fetch(`http://gate/${third}${url.search}`);
    const workflow = env[name.toUpperCase()];
    if (second === "call") {
      const call = await request.json();
      return Response.json(await attempt(() => make(workflow, call)));
    }
    if (third === "platform") return Response.json(await platform(await workflow.get(second), url.searchParams.get("until")));
    return new Response("there is nothing here", { status: 404 });
  },
};

async function attempt(call) {
  try {
    return { ok: (await call()) ?? null };
  } catch (error) {
    return { error: error.message };
  }
}

/** Every call that the binding and its instances take. */
async function make(workflow, call) {
  const [[name, argument]] = Object.entries(call);
  const id = typeof argument === "string" ? argument : argument.id;
  switch (name) {
    case "create":
      return { id: (await workflow.create(argument)).id };
    case "createBatch": {
      const { created, errors } = await workflow.createBatch(argument);
      return { created: created.map((instance) => instance.id), errors };
    }
    case "deleteBatch": {
      const { deleted, errors } = await workflow.deleteBatch(argument);
      return { deleted: deleted.map((instance) => instance.id), errors };
    }
    case "get":
      return { id: (await workflow.get(id)).id };
    case "status": {
      const { status, output, error } = await (await workflow.get(id)).status();
      return { status, output: output ?? null, error: error ?? null };
    }
    case "terminate":
      return (await workflow.get(id)).terminate(argument.rollback === undefined ? undefined : { rollback: argument.rollback });
    case "restart":
      return (await workflow.get(id)).restart(argument.from ? { from: argument.from } : undefined);
    case "sendEvent":
      return (await workflow.get(id)).sendEvent({ type: argument.type, payload: argument.payload });
    case "pause":
    case "resume":
    case "delete":
      return (await workflow.get(id))[name]();
    default:
      throw new Error(`there is no call ${name}`);
  }
}

/** The platform's own log of an instance, up to the first event of this type or to its end. */
async function platform(instance, until) {
  const events = await instance.subscribe();
  const log = [];
  for (;;) {
    const { done, value } = await events.next();
    if (done) return log;
    log.push(value);
    if (value.type === until) return log;
  }
}

async function callClass(env, method, request) {
  const [event] = await request.json();
  if (event?.timestamp) event.timestamp = new Date(event.timestamp);
  return env.RUST_SCRIPT[method](event, new NoSteps());
}

class NoSteps extends RpcTarget {}

export class Script extends WorkflowEntrypoint {
  async run(event, step) {
    this.event = event;
    return { outputs: await this.all(step, event.payload.ops), calls: null };
  }

  async all(step, ops) {
    const outputs = [];
    for (const op of ops) {
      const output = await this.one(step, op);
      if (output !== undefined) outputs.push(output);
    }
    return outputs;
  }

  async one(step, op) {
    const [[name, argument]] = Object.entries(op);
    switch (name) {
      case "do":
        return this.doStep(step, argument);
      case "sleep":
        return step.sleep(argument.name, argument.ms);
      case "sleepUntil":
        return step.sleepUntil(argument.name, new Date(this.event.timestamp.getTime() + argument.ms));
      case "wait": {
        const { type, payload } = await step.waitForEvent(argument.name, { type: argument.type, timeout: argument.timeout });
        return { type, payload };
      }
      case "join":
      case "tryJoin":
        return Promise.all(argument.map((ops) => this.all(step, ops)));
      case "catch":
        try {
          return await this.one(step, argument.op);
        } catch (error) {
          if (argument.rethrow) throw error;
          return { error: message(error) };
        }
      case "event": {
        const { instanceId, workflowName, timestamp, schedule = null } = this.event;
        return { instanceId, workflowName, timestamp: timestamp.getTime(), schedule };
      }
      case "waitUntil": {
        const record = async () => {
          await new Promise((resolve) => setTimeout(resolve, 50));
          await this.record(argument.record, "waited until");
        };
        this.ctx.waitUntil(record());
        return undefined;
      }
      case "fail":
        throw new Error(argument);
      case "panic":
        throw new Error(`panicked: ${argument}`);
      default:
        throw new Error(`there is no op ${name}`);
    }
  }

  async doStep(step, op) {
    const config = this.config(op);
    if (op.sensitive) config.sensitive = op.sensitive;
    const callback = async (ctx) => {
      const { attempts = [], gate, record, stream, value } = op;
      await this.record(record, { attempt: ctx });
      if (gate) await this.open(gate);
      await go(attempts[ctx.attempt - 1]);
      if (stream) return open(stream);
      return value ?? { name: ctx.step.name, count: ctx.step.count, attempt: ctx.attempt };
    };
    const rollback = this.rollbackOptions(op);
    const plain = Object.keys(config).length === 0;
    const output = await (plain ? step.do(op.name, callback, rollback) : step.do(op.name, config, callback, rollback));
    return show(output);
  }

  config({ retries, timeout, record }) {
    const config = {};
    if (retries) {
      const { delay: answers } = retries;
      const delay = Array.isArray(answers)
        ? async ({ ctx, error }) => {
            await this.record(record, { delay: ctx, error: message(error) });
            const answer = answers[ctx.attempt - 1];
            if (typeof answer === "number" || /^\d/.test(answer)) return answer;
            await go(answer);
            return 0;
          }
        : answers;
      config.retries = { ...retries, delay };
    }
    if (timeout !== undefined) config.timeout = timeout;
    return config;
  }

  rollbackOptions({ rollback, record }) {
    if (!rollback) return undefined;
    let attempt = 0;
    const options = {
      rollback: async ({ ctx, error, output }) => {
        const entry = { rollback: ctx, error: message(error) };
        if (output !== undefined) entry.output = await show(output);
        await this.record(record, entry);
        await go(rollback.attempts?.[attempt++]);
      },
    };
    const config = this.config({ ...rollback, record });
    if (Object.keys(config).length > 0) options.rollbackConfig = config;
    return options;
  }

  async record(name, entry) {
    if (name) await this.env.GATE.getByName(name).fetch(`http://gate/record?entry=${encodeURIComponent(JSON.stringify(entry))}`);
  }

  async open(name) {
    for (;;) {
      const response = await this.env.GATE.getByName(name).fetch("http://gate/status");
      if ((await response.json()).open) return;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }
}

/** Removes the name that an RPC puts in front of a message; the Rust side removes it on purpose. */
function message(error) {
  return error.message.replace(/^(NonRetryableError|WorkflowTimeoutError): /, "");
}

/** Behaves as the attempt is scripted. */
async function go(attempt = "ok") {
  if (attempt === "ok") return;
  if (attempt === "hang") await new Promise(() => {});
  const [[how, message]] = Object.entries(attempt);
  switch (how) {
    case "fail":
      throw new Error(message);
    case "nonRetryable":
      throw new NonRetryableError(message);
    case "typeError":
      throw new TypeError(message);
    case "panicLater":
      await new Promise((resolve) => setTimeout(resolve, 1));
  }
  throw new Error(`panicked: ${message}`);
}

function open({ chunks, fail }) {
  let number = 0;
  return new ReadableStream({
    type: "bytes",
    async pull(controller) {
      if (number < chunks.length) {
        controller.enqueue(Uint8Array.from({ length: chunks[number] }, (_, at) => (at + number) & 255));
        number += 1;
        return;
      }
      await go(fail);
      controller.close();
    },
  });
}

/** Returns a value, or the number and the sum of a stream's bytes. */
async function show(output) {
  if (!(output instanceof ReadableStream)) return output;
  let bytes = 0;
  let hash = 0;
  for await (const chunk of output) {
    bytes += chunk.length;
    for (const byte of chunk) hash = (Math.imul(hash, 31) + byte) >>> 0;
  }
  return { bytes, hash };
}

export class Gate extends DurableObject {
  async fetch(request) {
    const url = new URL(request.url);
    const { kv } = this.ctx.storage;
    switch (url.pathname) {
      case "/open":
        kv.put("open", true);
        break;
      case "/record":
        kv.put("records", [...(kv.get("records") ?? []), JSON.parse(url.searchParams.get("entry"))]);
        break;
      case "/records":
        return Response.json(kv.get("records") ?? []);
    }
    return Response.json({ open: kv.get("open") ?? false });
  }
}
