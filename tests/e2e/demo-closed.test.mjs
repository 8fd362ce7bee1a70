// The demo with keys: everybody with a run's link may see it, from the redirect to the cookie, and all others get the
// same refusal.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launch, skip, visit } from "./lib/browser.mjs";
import { isWaiting, serve } from "./lib/demo.mjs";
import { open } from "./lib/sse.mjs";

let demo;
before(async () => {
  const key = Buffer.from("a key that is long enough: 32 bytes and more").toString("base64");
  demo = await serve({ vars: { SSETARGET_KEYS: `k1:${key}` } });
});
after(() => demo?.stop());

/** Starts a run. Resolves to its id, its link, and the link's token. */
async function begin(params = { workMs: 20 }) {
  const response = await fetch(demo.url, { method: "POST", body: JSON.stringify(params), redirect: "manual" });
  assert.equal(response.status, 303);
  const { id, page } = await response.json();
  assert.equal(response.headers.get("location"), page);
  assert.equal(response.headers.get("cache-control"), "no-store");
  const [address, token] = page.split("#t=");
  assert.equal(address, `${demo.url}/${id}`);
  return { id, page, token, url: address };
}

const bearer = (token) => ({ authorization: `Bearer ${token}` });

test("without a link every run looks the same, whether there is one or not", async () => {
  const { id, token } = await begin();
  const other = await begin();
  const requests = [
    ["GET", "/sse"], ["HEAD", "/sse"], ["GET", "/instance/sse"], ["GET", ""], ["GET", "/otlp"], ["POST", "/event"], ["DELETE", ""], ["POST", "/session"],
  ];
  for (const [method, path] of requests) {
    const answers = new Set();
    for (const run of [id, "unknown", "%FF", "a".repeat(300)]) {
      for (const headers of [{}, bearer(other.token), bearer(`${token.slice(0, -2)}AA`), bearer("x"), { cookie: `__Secure-ssetarget=${other.token}` }, { accept: "text/event-stream" }]) {
        const body = method === "POST" ? (path === "/session" ? other.token : "{}") : undefined;
        const response = await fetch(`${demo.url}/${run}${path}`, { method, headers, body });
        assert.equal(response.status, 401, `${method} ${run}${path} ${JSON.stringify(headers)}`);
        const { date, ...rest } = Object.fromEntries(response.headers);
        answers.add(JSON.stringify([rest, await response.text()]));
      }
    }
    assert.equal(answers.size, 1, [...answers].join("\n"));
  }
  // The page is the same for all but for the id in it.
  const html = { accept: "text/html" };
  const [known, unknown] = await Promise.all([id, "unknown"].map(async (run) => {
    const response = await fetch(`${demo.url}/${run}`, { headers: html });
    const { date, "content-length": _, ...headers } = Object.fromEntries(response.headers);
    return [response.status, headers, (await response.text()).replaceAll(run, "ID")];
  }));
  assert.deepEqual(known, unknown);
  assert.deepEqual([known[0], known[1]["cache-control"]], [200, "no-store"]);
  // Starting a run does not reveal it either.
  const named = await fetch(`${demo.url}/?id=${id}`, { method: "POST", redirect: "manual" });
  const free = await fetch(`${demo.url}/?id=unknown`, { method: "POST", redirect: "manual" });
  assert.deepEqual([named.status, await named.text()], [free.status, await free.text()]);
  assert.equal(named.status, 400);
});

test("a program with the token watches, answers and deletes", async () => {
  const { id, url, token } = await begin();
  const headers = bearer(token);
  const stream = await open(`${url}/sse`, { headers });
  await stream.until(isWaiting);
  assert.match((await (await fetch(url, { headers })).json()).state, /^(running|waiting)$/);
  const sent = await fetch(`${url}/event`, { method: "POST", headers, body: "" });
  assert.deepEqual([sent.status, await sent.text()], [200, `{"sent":"waiting"}`]);
  assert.equal((await stream.rest()).at(-1).type, "completed");
  const deleted = await fetch(url, { method: "DELETE", headers });
  assert.equal(deleted.status, 204);
  assert.equal((await fetch(`${url}/sse`, { headers })).status, 404);
  assert.equal((await fetch(url, { method: "DELETE", headers })).status, 404);
  assert.equal((await fetch(`${demo.url}/${id}/sse`)).status, 401);
});

test("the token becomes a cookie for this run, and a page of another site cannot use it to answer", async () => {
  const { id, url, token } = await begin();
  const session = await fetch(`${url}/session`, { method: "POST", body: token });
  assert.equal(session.status, 200);
  const { expiresIn } = await session.json();
  assert.ok(expiresIn > 86_000 && expiresIn <= 86_400, `${expiresIn}`);
  const set = session.headers.get("set-cookie");
  for (const part of ["HttpOnly", "Secure", "SameSite=Lax", `Path=/${id}`]) assert.ok(set.includes(part), set);
  const cookie = set.split(";")[0];
  assert.equal((await fetch(`${url}/sse`, { method: "HEAD", headers: { cookie } })).status, 200);
  const from = (origin) => fetch(`${url}/event`, { method: "POST", headers: { cookie, origin }, body: `{"type":"other"}` });
  const forged = await from("https://evil.example");
  assert.deepEqual([forged.status, await forged.text()], [403, "pages of this origin may not do this\n"]);
  assert.equal((await from("null")).status, 403);
  assert.equal((await from(demo.url)).status, 200);
});

describe("in a browser", { skip }, () => {
  test("the link leads to the live page, leaves the address, and the browser finds its way back", async () => {
    const browser = await launch();
    try {
      const page = await visit(browser, demo.url);
      assert.match(await page.textContent("#access"), /This demo is closed/);
      await page.fill("[name=workMs]", "20");
      await page.click("#start button", { noWaitAfter: true });
      await page.waitForSelector('workflow-run[data-connection="live"]');
      await page.waitForFunction(() => location.hash === "");
      await page.click("workflow-run .row .answer:visible");
      await page.click("workflow-run .answer-form button[type=submit]");
      await page.waitForSelector('workflow-run[data-state="completed"][data-connection="ended"]');
      // By the cookie alone, from the list. The part after the `#` names the task whose details are shown.
      const [url] = page.url().split("#");
      await page.goto(demo.url);
      await page.click("#runs a", { noWaitAfter: true });
      await page.waitForSelector('workflow-run[data-state="completed"][data-connection="ended"]');
      assert.equal(page.url(), url);
      // Another browser has no cookie.
      const stranger = await (await browser.newContext()).newPage();
      await stranger.goto(url);
      await stranger.waitForSelector('workflow-run[data-connection="refused"]');
    } finally {
      await browser.close();
    }
  });
});
