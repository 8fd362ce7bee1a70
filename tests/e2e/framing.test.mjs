// The stream stays valid whatever the data is: two independent parsers read the data that was
// sent.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { createParser } from "eventsource-parser";
import { answer, isWaiting, refused, serve, startRun } from "./lib/demo.mjs";
import { open, withoutHeartbeats } from "./lib/sse.mjs";

const MAX_TEXT = 8 * 1024;

let demo;
before(async () => {
  demo = await serve();
});
after(() => demo?.stop());

/** Strings that are hard for a line-based format, for JSON, or for UTF-8. */
const HOSTILE = {
  "line ends": "a\nb\rc\r\nd\n\n\re",
  "an event of its own": '\n\nid: 999\nevent: completed\ndata: {"kind":"workflow"}\n\n',
  "a field of its own": "x\rid: 5\rretry: 1\r\r",
  comments: "\n: comment\n:\n",
  NUL: "a\0b\0",
  quotes: `"'\`\\"\\\\"}]`,
  "other controls": Array.from({ length: 32 }, (_, code) => String.fromCharCode(code)).join("") + "\x7f\x85",
  emoji: "🫖 👩🏽‍🚀 🇫🇷 e\u0301",
  "separators that are line ends elsewhere": "a\u2028b\u2029c\u0085d\u000be\u000cf",
  "a BOM": "\ufeffa\ufeff",
  "the last code points": "\ud7ff\ue000\ufffd\uffff\u{10ffff}",
  markup: "</script><img src=x onerror=alert(1)>",
  spaces: "  a  ",
  empty: "",
};

describe("in params, progress and errors", { concurrency: 4 }, () => {
  for (const [name, item] of Object.entries(HOSTILE)) {
    test(name, async () => {
      assert.deepEqual(await messages(item), [`${item}: 1 of 2 packed`, `${item}: 2 of 2 packed`]);
      const [first, ...thrown] = await errors(item);
      assert.equal(first, `nobody can order 0 of ${item}`);
      for (const error of thrown) {
        // An error that the platform throws again begins with its class, and ends at a NUL.
        assert.equal(error.replace(/^NonRetryableError: /, ""), first.split("\0")[0]);
      }
    });
  }
});

test("half a surrogate pair becomes a replacement character", async () => {
  // As JSON escapes: UTF-8 cannot express them.
  const body = String.raw`{"workMs":0,"quantity":1,"item":"a\ud83d b\ude00 \udead"}`;
  const response = await fetch(demo.url, { method: "POST", body, redirect: "manual" });
  const { id } = await response.json();
  const stream = await followed(id);
  await stream.until("progress");
  assert.equal(stream.events.at(-1).json.message, "a\ufffd b\ufffd \ufffd: 1 of 1 packed");
  await stream.compare();
});

describe("in an event's payload", () => {
  const payloads = { ...HOSTILE, "half a surrogate pair": "\ud83d", numbers: 1e308, nothing: null, deep: nested(200), long: "x".repeat(1_000_000) };
  test("none of it breaks the stream or the run", async () => {
    const runs = Object.values(payloads).map(async (payload) => {
      const stream = await followed(await startRun(demo.url, { params: { workMs: 0, quantity: 1 } }));
      await stream.until(isWaiting);
      const isText = typeof payload === "string" || payload === null;
      const answered = answer(demo.url, stream.id, { payload: { by: payload } });
      // `by` is a string or absent; anything else would fail the run.
      if (!isText) {
        await assert.rejects(answered, /: 400 the /);
        await answer(demo.url, stream.id);
      } else await answered;
      await stream.rest();
      assert.equal(stream.events.at(-1).type, "completed");
      await stream.compare();
    });
    await Promise.all(runs);
  });
});

describe("long texts", { concurrency: 4 }, () => {
  for (const [name, item] of Object.entries({
    "1 MB of letters": "x".repeat(1_000_000),
    "1 MB of line ends": "\r\n".repeat(250_000),
    "1 MB of emoji": "🫖".repeat(250_000),
    "just too long": "x".repeat(MAX_TEXT + 1),
  })) {
    test(`${name}: cut at 8 KiB, and says by how much`, async () => {
      const bytes = (text) => Buffer.byteLength(text);
      for (const [text, whole] of [
        [(await messages(item))[0], `${item}: 1 of 2 packed`],
        [(await errors(item))[0], `nobody can order 0 of ${item}`],
      ]) {
        const [, kept, cut] = text.match(/^(.*)… \((\d+) bytes cut\)$/su);
        assert.ok(whole.startsWith(kept));
        assert.ok(bytes(kept) <= MAX_TEXT && bytes(kept) > MAX_TEXT - 4, `${bytes(kept)}`);
        assert.equal(bytes(kept) + Number(cut), bytes(whole));
      }
    });
  }

  test("8 KiB is not too long", async () => {
    const item = "x".repeat(MAX_TEXT - ": 1 of 2 packed".length);
    assert.equal((await messages(item))[0], `${item}: 1 of 2 packed`);
  });

  test("a body above 1 MiB is 413 at once", async () => {
    const id = await startRun(demo.url);
    const long = (size) => JSON.stringify({ item: "x".repeat(size - '{"item":""}'.length) });
    for (const [path, size] of [["/", 1024 * 1024 + 1], ["/", 8 * 1024 * 1024], [`/${id}/event`, 1024 * 1024 + 1]]) {
      const response = await refused(demo.url + path, () => ({ body: long(size) }));
      assert.deepEqual(response, { status: 413, body: "the body is larger than 1 MiB\n" });
    }
    const largest = await fetch(demo.url, { method: "POST", body: long(1024 * 1024 - 100), redirect: "manual" });
    assert.equal(largest.status, 303);
    // These bodies are below the limit, and above 1 MiB once they are passed on.
    const numbers = JSON.stringify({ type: "other", payload: [] }).replace("[]", `[${"1e9,".repeat(200_000)}0]`);
    for (const [path, body] of [["/", long(1024 * 1024)], [`/${id}/event`, numbers]]) {
      const response = await fetch(demo.url + path, { method: "POST", body, redirect: "manual" });
      assert.equal(response.status, 413);
      assert.match(await response.text(), /^the (order|payload) is larger than 1 MiB\n$/);
    }
  });
});

/** The messages of progress of a run that orders two of `item`. */
async function messages(item) {
  const stream = await followed(await startRun(demo.url, { params: { workMs: 0, quantity: 2, item } }));
  await stream.until(({ type, json }) => type === "completed" && json.step === "pack parcel");
  await stream.compare();
  return stream.events.filter(({ type }) => type === "progress").map(({ json }) => json.message);
}

/** The errors of a run that orders none of `item`: of the attempt, the step and the run. */
async function errors(item) {
  const stream = await followed(await startRun(demo.url, { params: { workMs: 0, quantity: 0, item } }));
  await stream.rest();
  await stream.compare();
  const told = stream.events.filter(({ json }) => "error" in json);
  assert.deepEqual(told.map(({ type, json }) => [type, json.kind]), [["attempt_failed", "do"], ["failed", "do"], ["failed", "workflow"]]);
  return told.map(({ json }) => json.error);
}

/** Follows a stream, and compares the part that was read with another parser's reading. */
async function followed(id) {
  const stream = await open(`${demo.url}/${id}/sse`);
  stream.id = id;
  stream.compare = async () => {
    const parsed = [];
    const retries = [];
    const parser = createParser({
      onEvent: ({ id, event: type, data }) => parsed.push({ id: Number(id), type, data }),
      onRetry: (value) => retries.push(value),
      onError: (error) => assert.fail(error),
    });
    parser.feed(stream.bytes.toString());
    assert.deepEqual(parsed.slice(0, stream.events.length), stream.events.map(({ id, type, data }) => ({ id, type, data })));
    assert.deepEqual(retries, []);
    assert.deepEqual(stream.events.map(({ id }) => id), stream.events.map((_, index) => index + 1));
    // JSON has no line ends of its own, so each event is three lines and a blank one.
    for (const { raw } of stream.events) assert.equal(raw.split("\n").length, 5);
    const sent = withoutHeartbeats(stream.bytes).toString();
    assert.ok(sent.startsWith(stream.events.map(({ raw }) => raw).join("")));
    stream.close();
  };
  return stream;
}

function nested(depth) {
  return depth === 0 ? "deep" : [nested(depth - 1)];
}
