// What the docs show and no other test runs.  node --test tests/e2e/docs.test.mjs
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { delimiter, dirname } from "node:path";
import { test } from "node:test";

const page = readFileSync(new URL("../../docs/access.md", import.meta.url), "utf8");

/** The only block of this language that contains this text. */
function block(language, text) {
  const found = [...page.matchAll(/^ *```(\S+)\n(.*?)^ *```$/gms)].filter(([, name, code]) => name === language && code.includes(text));
  assert.equal(found.length, 1, `one block of ${language} with ${text}`);
  return found[0][2];
}

test("the command of docs/access.md shows what is in a token, whatever is in it", async () => {
  const [script] = block("js", "createHmac").split(/^mint\(/m);
  const { mint } = await import(`data:text/javascript,${encodeURIComponent(script)}`);
  const command = block("sh", "$TOKEN");
  const env = { ...process.env, PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH}` };
  // Lengths of all kinds, and characters whose base64 has `-` and `_`.
  for (const sub of ["o-1", "o-12", "o-123", "o-1234", "ÿþ?>~~ü"]) {
    const claims = { aud: "order", sub, scope: "watch", exp: 1_795_510_800 };
    const token = mint(claims, "k1", Buffer.alloc(32, 7));
    const { stdout, stderr, status } = spawnSync("sh", ["-c", command], { encoding: "utf8", env: { ...env, TOKEN: token } });
    assert.equal(status, 0, stderr);
    assert.deepEqual(stdout.trim().split("\n").map((line) => JSON.parse(line)), [{ alg: "HS256", typ: "JWT", kid: "k1" }, claims]);
  }
});

test("the page of docs/access.md exchanges a token, leaves none in the address, and stops at a refusal and at a login", async () => {
  const code = block("js", "new EventSource(`${path}/sse`)").replace("const source = ", "return ");
  const visit = async (hash, answer) => {
    const did = [];
    const names = ["location", "history", "fetch", "EventSource"];
    const fetch = async (url, { method, body, redirect }) => {
      did.push(`${method} ${url} ${body} ${redirect}`);
      return answer;
    };
    const history = { replaceState: (_state, _title, url) => did.push(`address ${url}`) };
    class EventSource {
      constructor(url) {
        did.push(`stream ${url}`);
      }
    }
    const run = new Function(...names, `return (async () => { ${code} })();`);
    await run({ pathname: "/o-1", hash }, history, fetch, EventSource).catch(({ message }) => did.push(message));
    return did;
  };
  const exchange = ["address /o-1", "POST /o-1/session a.b.c manual"];
  assert.deepEqual(await visit("#t=a.b.c", { ok: true }), [...exchange, "stream /o-1/sse"]);
  assert.deepEqual(await visit("#t=a.b.c", { ok: false }), [...exchange, "the link is not good, or not any more"]);
  assert.deepEqual(await visit("", null), ["address /o-1", "stream /o-1/sse"]);
});
