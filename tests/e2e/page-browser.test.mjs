// <workflow-run> in a real browser, against a server of its own that speaks docs/wire.md.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { drawn, launch, skip, visit as visitIn } from "./lib/browser.mjs";
import { Script, bigSnapshot, order } from "./lib/page-runs.mjs";
import { servePage } from "./lib/page-server.mjs";
import { freePort } from "./lib/ports.mjs";
import { becomes, until } from "./lib/wait.mjs";

const MOST_ROWS = 80;

describe("the page in a browser", { skip }, () => {
  let server;
  let browser;
  let number = 0;
  before(async () => {
    server = await servePage();
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await server?.kill();
  });

  /** Opens a page, and waits until its script is there. `options.init` are scripts that run before it. */
  const visit = async (url, { init = [], ...options } = {}) => {
    const page = await visitIn(browser, url, { ...options, init: [[helpers], ...init] });
    await page.waitForFunction(() => document.querySelector("workflow-run")?.shadowRoot);
    return page;
  };

  /** Makes a run, and opens its page. */
  async function open(events, { fragment = "", page: options, ...runOptions } = {}) {
    number += 1;
    const run = server.run(`run-${number}`, runOptions);
    for (const [type, data] of events) run.add(type, data);
    const page = await visit(`${server.url}/run-${number}${fragment}`, options);
    return { run, page };
  }

  test("a run is shown live, and ends", async () => {
    const s = new Script(Date.now()).begin();
    const { run, page } = await open(s.events);
    await page.waitForSelector('workflow-run[data-state="running"][data-connection="live"]');
    const told = await recordStates(page);
    const play = (...steps) => {
      const from = s.events.length;
      for (const step of steps) step();
      for (const [type, data] of s.events.slice(from)) run.add(type, data);
    };
    let pack;
    play(() => (pack = s.task("pack")));
    await row(page, "pack-1", "running");
    play(() => s.progress(pack, { percent: 40, message: "2 of 5" }));
    await page.waitForFunction(() => inRow("pack-1", ".label").textContent === "40 % · 2 of 5");
    assert.equal(await page.evaluate(() => inRow("pack-1", ".fill").style.width), "40%");
    play(() => s.failAttempt(pack, 1, "no tape", { retryAt: s.at(60_000) }));
    await row(page, "pack-1", "retrying");
    await page.waitForFunction(() => /^again in .*attempt 1: no tape$/.test(inRow("pack-1", ".label").textContent));
    play(() => s.wait(50).done(pack, { attempt: 2, attributes: { boxes: 5 } }));
    await row(page, "pack-1", "completed");
    play(() => s.task("nap", { kind: "sleep", until: s.at(3_600_000) }));
    await row(page, "nap-1.sleep", "sleeping");
    await page.waitForFunction(() => /^wakes in (59 min|1 h)/.test(inRow("nap-1.sleep", ".label").textContent));
    await page.waitForFunction(() => document.querySelector("workflow-run").shadowRoot.querySelector(".pill").textContent === "Sleeping");
    play(() => s.end());
    await page.waitForSelector('workflow-run[data-state="completed"][data-connection="ended"]');
    await row(page, "nap-1.sleep", "stopped");
    assert.equal(await page.title(), `Completed: run-${number}`);
    // Nothing is announced twice, and the end comes last.
    const states = await told();
    assert.deepEqual([...new Set(states)], states);
    assert.equal(states.at(-1), "completed completed ended");
    page.isClean();
    await page.close();
  });

  test("what remains is in the head, on the row and in the details; of a run that has just begun it is asked again", async () => {
    const begun = Date.now() - 1000;
    const time = new Date(begun).toISOString();
    const estimate = { run: { runs: 9, medianMs: 3_600_000, lowMs: 1_800_000, highMs: 7_200_000 }, tasks: { "pack-1": { runs: 9, medianMs: 600_000, lowMs: 300_000, highMs: 900_000 } } };
    const snapshot = { id: "o-1", workflow: "order", run: 1, state: "running", started: time, cursor: 2, taskCount: 1, tasks: [{ taskId: "pack-1", step: "pack", kind: "do", count: 1, parentId: null, state: "running", started: time, percent: 40 }] };
    number += 1;
    const run = server.run(`run-${number}`);
    run.snapshot = snapshot;
    // The index is told of it before the page asks again.
    let goOn;
    const again = new Promise((resolve) => (goOn = resolve));
    run.beforeSnapshot = async (asked) => {
      if (asked === 1) return;
      await again;
      run.snapshot = { ...snapshot, estimate };
    };
    // The clock of the page stands still: it is asked again only of a run that is young, and what remains depends on the time.
    const page = await visit(`${server.url}/run-${number}`, { init: [[(now) => (Date.now = () => now), begun + 1000]] });
    await row(page, "pack-1", "running");
    const left = () => page.evaluate(() => document.querySelector("workflow-run").shadowRoot.querySelector(".left").textContent);
    assert.equal(await left(), "");
    goOn();
    await page.waitForFunction(() => document.querySelector("workflow-run").shadowRoot.querySelector(".left").textContent !== "");
    assert.equal(await left(), "left: about 1 h, usually 30 min to 2 h");
    await page.waitForFunction(() => inRow("pack-1", ".label").textContent === "40 % · left: about 10 min, usually 5 to 15 min");
    await page.evaluate(() => document.querySelector("workflow-run").showTask("pack-1"));
    const facts = await page.evaluate(() => document.querySelector("workflow-run").shadowRoot.querySelector(".facts-list").textContent);
    assert.match(facts, /What remainsabout 10 min, usually 5 to 15 min/);
    assert.deepEqual(await page.evaluate(() => document.querySelector("workflow-run").view.estimate.run.runs), 9);
    const s = new Script(begun);
    s.counts.set("do:pack:false", 0);
    const pack = s.task("pack");
    const wait = s.wait(500).done(pack).task("ask", { kind: "waitForEvent", eventType: "yes" });
    for (const [type, data] of s.events.slice(1)) run.add(type, data);
    await row(page, "pack-1", "completed");
    // Nothing is said while all it does is to wait, and nothing of what is over.
    await page.waitForFunction(() => document.querySelector("workflow-run").shadowRoot.querySelector(".left").textContent === "");
    await page.waitForFunction(() => inRow("pack-1", ".label").textContent === "");
    void wait;
    assert.equal(server.log.filter((line) => line === `GET /run-${number}`).length, 3, "the page, the snapshot, and once more");
    page.isClean();
    await page.close();
  });

  test("a wait is answered on its row, and invalid JSON is not sent", async () => {
    const s = new Script(Date.now() - 5000).begin();
    const wait = s.task("ask", { kind: "waitForEvent", eventType: "approval", until: s.at(3_600_000) });
    const { run, page } = await open(s.events, { answers: true });
    run.onAnswer = () => {
      run.add(...s.done(wait).events.at(-1));
    };
    await page.click("workflow-run .row .answer:visible");
    assert.equal(await page.inputValue("#answer-type"), "approval");
    await page.fill("#answer-payload", "{approved");
    await page.click("workflow-run .answer-form button[type=submit]");
    await page.waitForSelector("#answer-error:text('This is not JSON')");
    assert.deepEqual(run.answers, []);
    await page.fill("#answer-payload", '{"approved": true}');
    await page.press("#answer-payload", "Control+Enter");
    await row(page, "ask-1.waitForEvent", "completed");
    assert.deepEqual(run.answers, [{ type: "approval", payload: { approved: true } }]);
    await page.waitForSelector("workflow-run .answer-form", { state: "hidden" });
    page.isClean();
    await page.close();
  });

  test("an answer that is refused says why, as text; without `answer` there is no button", async () => {
    const s = new Script(Date.now() - 5000).begin();
    s.task("ask", { kind: "waitForEvent" });
    const { page } = await open(s.events, { answers: true, refusesAnswers: "<b>too late</b>" });
    await page.click("workflow-run .banner .primary:visible");
    await page.click("workflow-run .answer-form button[type=submit]");
    await page.waitForSelector("#answer-error:text('Say which type')");
    await page.fill("#answer-type", "go");
    await page.click("workflow-run .answer-form button[type=submit]");
    await page.waitForSelector("#answer-error:text('The server refused it (409): <b>too late</b>')");
    await page.close();

    const { page: reader } = await open(s.events);
    await row(reader, "ask-1.waitForEvent", "waiting");
    assert.equal(await reader.isVisible("workflow-run .answer"), false);
    assert.equal(await reader.isVisible("workflow-run .banner .primary"), false);
    reader.isClean();
    await reader.close();
  });

  test("an answer that is redirected to a login is not said to be sent, and goes when it is sent again", async () => {
    const s = new Script(Date.now() - 5000).begin();
    const wait = s.task("ask", { kind: "waitForEvent", eventType: "go" });
    const { run, page } = await open(s.events, { answers: true });
    run.onAnswer = () => void run.add(...s.done(wait).events.at(-1));
    await page.click("workflow-run .row .answer:visible");
    const from = server.log.length;
    run.closed = true;
    await page.click("workflow-run .answer-form button[type=submit]");
    await page.waitForSelector("#answer-error:text('The server sends another page, perhaps to log in, so this may not have arrived. Log in, for example in another tab, and send it again.')");
    assert.equal(await page.textContent("workflow-run .form-outcome"), "");
    assert.ok(!server.log.slice(from).some((line) => line.includes("/login")), "nothing is sent there");
    run.closed = false;
    await page.click("workflow-run .answer-form button[type=submit]");
    await row(page, "ask-1.waitForEvent", "completed");
    assert.deepEqual(run.answers, [{ type: "go" }]);
    page.isClean();
    await page.close();
  });

  test("an answer that is under way does not keep another one from being sent", async () => {
    const s = new Script(Date.now() - 5000).begin();
    const waits = ["one", "two"].map((name) => s.task(name, { kind: "waitForEvent", eventType: name }));
    const { run, page } = await open(s.events, { answers: true });
    let goOn;
    const later = new Promise((resolve) => (goOn = resolve));
    run.onAnswer = async ({ type }) => {
      if (type === "one") await later;
      run.add(...s.done(waits[type === "one" ? 0 : 1]).events.at(-1));
    };
    for (const name of ["one", "two"]) {
      await row(page, `${name}-1.waitForEvent`, "waiting");
      await page.evaluate((id) => inRow(id, ".answer").click(), `${name}-1.waitForEvent`);
      await page.press("#answer-payload", "Control+Enter");
      await becomes(() => run.answers.at(-1)?.type, name, "the answer that was sent last");
    }
    await row(page, "two-1.waitForEvent", "completed");
    goOn();
    await row(page, "one-1.waitForEvent", "completed");
    assert.deepEqual(run.answers.map(({ type }) => type), ["one", "two"]);
    page.isClean();
    await page.close();
  });

  test("a token that is redirected to a login is not taken for exchanged, and neither is a login for a snapshot", async () => {
    const s = new Script(Date.now()).begin().step("here", 1);
    number += 1;
    const run = server.run(`run-${number}`, { session: true, token: "s3cret", snapshot: true });
    for (const [type, data] of s.events) run.add(type, data);
    run.closed = true;
    const page = await visit(`${server.url}/run-${number}#t=s3cret`);
    await page.waitForSelector("workflow-run .banner:has-text('The server sends another page, perhaps to log in: do that in another tab; next try in')");
    assert.equal(run.session, null);
    run.closed = false;
    await page.click("workflow-run .banner button:visible");
    await row(page, "here-1", "completed");
    assert.equal(run.session, "s3cret");
    run.closed = true;
    run.cut();
    await page.waitForSelector("workflow-run .banner:has-text('The server sends another page, perhaps to log in: do that in another tab; next try in')");
    await page.reload();
    await page.waitForSelector("workflow-run .banner:has-text('The server sends another page, perhaps to log in: do that in another tab; next try in')");
    run.closed = false;
    await page.click("workflow-run .banner button:visible");
    await row(page, "here-1", "completed");
    // A login at another origin, whose answers a page may not read.
    const elsewhere = await servePage();
    try {
      run.login = `${elsewhere.url}/login`;
      run.closed = true;
      run.cut();
      await page.waitForSelector("workflow-run .banner:has-text('The server sends another page, perhaps to log in: do that in another tab; next try in')");
    } finally {
      await elsewhere.kill();
    }
    await page.close();
  });

  test("a reload in the middle, a cut and a restart of the server lose nothing and double nothing", async () => {
    // A port that nobody else gets while the server is down.
    const own = await servePage({ port: await freePort() });
    let current = own;
    try {
      const s = new Script(Date.now()).begin();
      const run = own.run("survivor", { snapshot: true });
      const add = (...events) => events.forEach(([type, data]) => run.add(type, data));
      add(...s.events);
      const page = await visit(`${own.url}/survivor`);
      await page.waitForSelector('workflow-run[data-connection="live"]');
      const step = (name) => {
        const from = s.events.length;
        s.step(name, 1);
        add(...s.events.slice(from));
      };
      step("before the cut");
      run.cut();
      step("during the cut");
      await row(page, "during the cut-1", "completed");
      await page.reload();
      await row(page, "during the cut-1", "completed");
      await own.kill();
      await page.waitForSelector('workflow-run[data-connection="reconnecting"]');
      step("while the server was down");
      current = await servePage({ port: own.port, runs: own.runs });
      await row(page, "while the server was down-1", "completed");
      const ids = await page.evaluate(() => document.querySelector("workflow-run").view.tasks.map(({ taskId }) => taskId));
      assert.deepEqual(ids, ["before the cut-1", "during the cut-1", "while the server was down-1"]);
      // The browser gives up at such an answer, so the element asks by itself, and shows the
      // reason. It would wait for five minutes, if it were not for the button.
      run.refuse = 500;
      run.retryAfter = 300;
      run.cut();
      await page.waitForSelector("workflow-run .banner:has-text('The server answered 500; next try in 300 s')");
      run.refuse = null;
      step("after the accident");
      await page.click("workflow-run .banner button:visible");
      await row(page, "after the accident-1", "completed");
      await page.waitForSelector('workflow-run[data-connection="live"]');
      await page.close();
    } finally {
      await current.kill();
    }
  });

  test("a snapshot is gone on from, and the events before it are read on demand", async () => {
    const events = order(Date.now(), { until: "live" });
    const { run, page } = await open(events);
    await caughtUp(page, run);
    const view = await page.evaluate(() => document.querySelector("workflow-run").view);
    await page.close();

    run.snapshot = { id: run.id, ...view };
    const from = server.log.length;
    const late = await visit(`${server.url}/${run.id}`);
    await row(late, "load parcel 4-1", "running");
    await late.waitForSelector('workflow-run[data-connection="live"]');
    assert.ok(server.log.slice(from).includes(`GET /${run.id}/sse?lastEventId=${events.length}`), server.log.slice(from).join("\n"));
    assert.deepEqual(await late.evaluate(() => document.querySelector("workflow-run").view), { ...view, id: run.id });
    await late.click("workflow-run button:text-is('Events')");
    late.isClean();
    // One that fails takes nothing for the events before, and can be tried again.
    run.refuse = 500;
    const asked = () => server.log.filter((line) => line.startsWith(`GET /${run.id}/sse`) && line.includes("from=beginning")).length;
    await late.click("workflow-run button:text-is('Load the events before')");
    await becomes(asked, 1, "requests of the events before");
    run.refuse = null;
    const again = (rows) => {
      // Twice, as by somebody who is impatient.
      const button = shadow(".events-tools button");
      for (let n = 0; n < 2; n += 1) if (!button.hidden) button.click();
      return shadow(".grid[role=grid]").getAttribute("aria-rowcount") === String(rows);
    };
    await late.waitForFunction(again, events.length);
    await becomes(asked, 2, "requests of the events before");
    await drawn(late);
    assert.equal(await late.evaluate(() => shadow(".grid[role=grid]").getAttribute("aria-rowcount")), String(events.length));
    await late.click("workflow-run .row.event:has-text('attempt_failed')");
    await late.waitForSelector("workflow-run .panel pre:has-text('the bank does not answer')");
    // Also where the URL of the stream has a position, in any of its forms.
    await late.evaluate(() => {
      const element = document.querySelector("workflow-run");
      element.setAttribute("src", `${element.getAttribute("src")}?since=1&last_event_id=2`);
    });
    await late.click("workflow-run button:text-is('Events')");
    await late.click("workflow-run button:text-is('Load the events before')");
    await becomes(asked, 3, "requests of the events before");
    assert.equal(server.log.findLast((line) => line.includes("from=beginning")), `GET /${run.id}/sse?from=beginning`);
    await late.close();
  });

  test("tries that are under way at the same time do not get in each other's way", async () => {
    const events = order(Date.now(), { until: "live" });
    const { run, page } = await open(events);
    await caughtUp(page, run);
    run.snapshot = { id: run.id, ...(await page.evaluate(() => document.querySelector("workflow-run").view)) };
    await page.close();
    // The answer to the last try comes first.
    const answers = [];
    run.beforeSnapshot = () => new Promise((resolve) => answers.push(resolve));
    const late = await visit(`${server.url}/${run.id}`);
    for (const tries of [1, 2, 3]) {
      await becomes(() => answers.length, tries, "requests of the snapshot");
      if (tries < 3) await late.evaluate(() => document.querySelector("workflow-run").renew());
    }
    answers[2]();
    await row(late, "load parcel 4-1", "running");
    run.add("completed", { ...events.at(-1)[1], timestamp: new Date().toISOString(), attempt: 1 });
    await row(late, "load parcel 4-1", "completed");
    answers[1]();
    answers[0]();
    await late.waitForTimeout(600);
    await row(late, "load parcel 4-1", "completed");
    assert.equal(run.streams.size, 1);
    late.isClean();
    await late.close();
  });

  test("a clock that is wrong does not make times wrong", async () => {
    for (const off of [-3_600_000, 3_600_000]) {
      const { run, page } = await open(new Script(Date.now() - 5000).begin().events);
      await page.waitForSelector('workflow-run[data-state="running"]');
      run.snapshot = { id: run.id, ...(await page.evaluate(() => document.querySelector("workflow-run").view)) };
      await page.close();
      const wrongly = (ms) => {
        const now = Date.now;
        Date.now = () => now() + ms;
      };
      const wrong = await visit(`${server.url}/${run.id}`, { init: [[wrongly, off]] });
      await wrong.waitForSelector('workflow-run[data-connection="live"]');
      const nap = new Script(Date.now());
      nap.task("nap", { kind: "sleep", until: nap.at(600_000) });
      run.add(...nap.events[0]);
      await row(wrong, "nap-1.sleep", "sleeping");
      assert.match(await wrong.textContent("workflow-run .elapsed"), /^\d+ s$/);
      assert.match(await wrong.evaluate(() => inRow("nap-1.sleep", ".label").textContent), /^wakes in (9 min|10 min 0)/);
      await wrong.close();
    }
  });

  test("reset, restarted and a position that is too far", async () => {
    const s = new Script(Date.now()).begin();
    s.step("first", 1).end("no");
    const { run, page } = await open(s.events.slice(0, -1));
    await row(page, "first-1", "completed");
    run.add(...s.events.at(-1));
    await page.waitForSelector("workflow-run .banner:has-text('no')");
    await page.waitForSelector('workflow-run[data-connection="ended"]');
    await page.close();

    run.add("restarted", { run: 2, timestamp: s.at(0) });
    const again = new Script(Date.now()).begin();
    again.step("second", 1);
    const next = await visit(`${server.url}/${run.id}`);
    await next.waitForSelector('workflow-run[data-connection="live"]');
    for (const [type, data] of again.events) run.add(type, data);
    await row(next, "second-1", "completed");
    assert.equal(await next.locator("workflow-run .row[data-task]:visible").count(), 1);
    assert.match(await next.textContent("workflow-run .of"), /run 2/);
    // The log is deleted and begins again.
    run.cut();
    run.events = [];
    for (const [type, data] of again.events) run.add(type, data);
    await next.waitForSelector("workflow-run .banner:has-text('Older events are no longer kept')");
    await row(next, "second-1", "completed");
    next.isClean();
    await next.close();
  });

  test("a token in the fragment is exchanged and leaves no trace; a link to a task lives with it", async () => {
    const { run, page } = await open(order(Date.now()), { session: true, token: "s3cret", fragment: "#t=s3cret&task=charge%20card-1" });
    await page.waitForSelector("workflow-run .panel:visible >> text=charge card");
    assert.equal(await page.evaluate(() => location.hash), "#task=charge+card-1");
    assert.equal(run.session, "s3cret");
    assert.ok(!server.log.some((line) => line.includes("s3cret")));
    await page.keyboard.press("Escape");
    await page.close();

    const { page: refused } = await open([], { session: true, token: "s3cret", fragment: "#t=wrong" });
    await refused.waitForSelector('workflow-run[data-connection="refused"]');
    await refused.waitForSelector("workflow-run .banner:has-text('You may not watch this run')");
    assert.equal(await refused.evaluate(() => location.hash), "");
    // A new link in the same tab.
    await refused.evaluate(() => (location.hash = "#t=s3cret"));
    await refused.waitForSelector('workflow-run[data-connection="live"]');
    assert.equal(await refused.evaluate(() => location.hash), "");
    await refused.close();
  });

  test("a permission that runs out is renewed if the page can, and else is said to have run out", async () => {
    const s = new Script(Date.now()).begin();
    s.step("one", 1);
    const { run, page } = await open(s.events, { session: true, token: "t1", fragment: "#t=t1" });
    await row(page, "one-1", "completed");
    await page.evaluate(() => {
      window.renewals = 0;
      document.addEventListener("renew", ({ detail }) => {
        window.renewals += 1;
        if (window.renewals === 1) detail.respondWith(new Promise((resolve) => setTimeout(() => resolve("t2"), 50)));
      });
    });
    run.options.token = "t2";
    run.session = null;
    run.send("expired", { renew: true });
    run.cut();
    await page.waitForFunction(() => window.renewals === 1);
    const from = s.events.length;
    s.step("two", 1);
    for (const [type, data] of s.events.slice(from)) run.add(type, data);
    await row(page, "two-1", "completed");
    assert.equal(run.session, "t2");
    await page.waitForTimeout(2100);
    run.session = null;
    run.send("expired", { renew: true });
    run.cut();
    await page.waitForSelector('workflow-run[data-connection="expired"]');
    await page.waitForSelector("workflow-run .banner:has-text('has run out')");
    // Everything is still shown.
    await row(page, "two-1", "completed");
    await page.close();
  });

  test("an unknown run is named as such, and is there when it begins", async () => {
    // It does not try again by itself, so that the button is still there when it is clicked.
    const once = () => {
      const { setTimeout } = window;
      window.setTimeout = (call, ms, ...rest) => (ms >= 500 ? 0 : setTimeout(call, ms, ...rest));
    };
    const page = await visit(`${server.url}/late`, { init: [[once]] });
    await page.waitForSelector('workflow-run[data-connection="unknown"]');
    await page.waitForSelector("workflow-run .banner:has-text('There is no such run')");
    const run = server.run("late");
    for (const [type, data] of new Script(Date.now()).begin().step("here", 1).events) run.add(type, data);
    await page.click("workflow-run .banner button:visible");
    await row(page, "here-1", "completed");
    await page.close();
  });

  test("hostile strings in every field are text, and break nothing", async () => {
    const evil = [`<img src=//evil.example/x onerror="document.title='owned'">`, "\u202egnp.exe\u2066", "\u0000\u0007\u001b[31m", "x".repeat(1_000_000), "</script><script>document.title='owned'</script>", "\ud800 lone", "é".repeat(3000)];
    const s = new Script(Date.now()).begin();
    for (const text of evil) {
      const task = s.task(text, { kind: "do" });
      s.progress(task, { percent: 5, message: text, attributes: { [text.slice(0, 500)]: text } }).failAttempt(task, 1, text).fail(task, text, { attempt: 1 });
      s.task(text, { kind: "waitForEvent", eventType: text });
    }
    s.task("odd", { kind: evil[0] });
    for (const fail of [evil[0], evil[1]]) s.wait(1).fail({ taskId: fail, step: fail, kind: "do", count: 1, parentId: null }, fail);
    const { run, page } = await open(s.events, { answers: true });
    await caughtUp(page, run);
    await becomes(() => page.locator("workflow-run .row[data-task]:visible").count(), evil.length * 2 + 1, "rows");
    assert.equal(await page.evaluate(() => shadow(".page").querySelectorAll("img, script, b, iframe").length), 0);
    const texts = await page.evaluate(() => [...shadow(".page").querySelectorAll(".row .step, .row .label")].map((node) => node.textContent));
    assert.ok(texts.every((text) => text.length < 600 && !/[\u0000-\u0008\u202a-\u202e\u2066-\u2069]/.test(text)));
    // Each panel is drawn.
    const rows = await page.locator("workflow-run .row[data-task]:visible").count();
    for (let n = 0; n < rows; n += 1) {
      await page.evaluate((index) => shadow(`.row[aria-rowindex="${index + 2}"]`).click(), n);
      assert.equal(await page.evaluate(() => shadow(".panel").querySelectorAll("img, script, b, iframe").length), 0);
    }
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(overflow, 0);
    run.add(...s.end(evil[0]).events.at(-1));
    await page.waitForSelector('workflow-run[data-connection="ended"]');
    assert.equal(await page.title(), `Failed: ${run.id}`);
    page.isClean();
    await page.close();
  });

  test("10,000 events at speed: all arrive, few elements; also in a hidden tab", async () => {
    const s = new Script(Date.now()).begin();
    const { run, page } = await open(s.events);
    await page.waitForSelector('workflow-run[data-connection="live"]');
    await page.evaluate(() => {
      window.most = 0;
      const look = () => {
        window.most = Math.max(window.most, shadow(".page").querySelectorAll(".row").length);
        requestAnimationFrame(look);
      };
      look();
    });
    await stream(run, s, 5000);
    await page.waitForFunction(() => document.querySelector("workflow-run").view.taskCount === 5000);
    // The page follows: the last row is visible.
    await row(page, "step-5000", "completed");
    // While the page is hidden, nothing is drawn and nothing is lost.
    await page.evaluate(() => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
      document.dispatchEvent(new Event("visibilitychange"));
    });
    // A pending drawing still happens, because the tab is not really hidden.
    await drawn(page);
    await stream(run, s, 200);
    await page.waitForFunction(() => document.querySelector("workflow-run").view.taskCount === 5200);
    await drawn(page);
    assert.equal(await page.evaluate(() => inRow("step-5200", ".step")), null);
    await page.evaluate(() => {
      delete document.hidden;
      document.dispatchEvent(new Event("visibilitychange"));
    });
    await row(page, "step-5200", "completed");
    assert.ok((await page.evaluate(() => window.most)) <= MOST_ROWS);
    run.add(...s.end().events.at(-1));
    await page.waitForSelector('workflow-run[data-connection="ended"]');
    page.isClean();
    await page.close();
  });

  test("100,000 events from a snapshot: scrolled from end to end with few elements", async () => {
    const run = server.run("big", {});
    run.snapshot = bigSnapshot("big", 100_000);
    const page = await visit(`${server.url}/big`, { viewport: { width: 1200, height: 2600 } });
    await page.waitForSelector("workflow-run .row[data-task]:visible");
    const rows = await page.evaluate(() => Number(shadow("[role=treegrid]").getAttribute("aria-rowcount")));
    assert.equal(rows, 33_668);
    for (const part of [0, 0.3, 0.7, 1]) {
      await page.evaluate((at) => (shadow(".scroller").scrollTop = at * shadow(".scroller").scrollHeight), part);
      await drawn(page);
      const { count, blank } = await page.evaluate(() => {
        const shown = [...shadow(".page").querySelectorAll(".row:not([hidden])")];
        const box = shadow(".scroller").getBoundingClientRect();
        const boxes = shown.map((element) => element.getBoundingClientRect());
        const blank = boxes.length === 0 || Math.min(...boxes.map(({ top }) => top)) > box.top + 1 || Math.max(...boxes.map(({ bottom }) => bottom)) < box.bottom - 1;
        return { count: shadow(".page").querySelectorAll(".row").length, blank };
      });
      assert.ok(count <= MOST_ROWS, `${count} rows`);
      assert.equal(blank, false, `blank at ${part}`);
    }
    page.isClean();
    await page.close();
  });

  test("follows what runs until the reader scrolls, then offers to jump", async () => {
    const s = new Script(Date.now()).begin();
    for (let n = 0; n < 100; n += 1) s.step("step", 1);
    const { run, page } = await open(s.events);
    await row(page, "step-100", "completed");
    await drawn(page);
    assert.equal(await page.isVisible("workflow-run .jump"), false);
    await page.hover("workflow-run .scroller");
    await page.evaluate(() => shadow(".scroller").addEventListener("scrollend", () => (window.hasScrolled = true)));
    await page.mouse.wheel(0, -1500);
    await page.waitForSelector("workflow-run .jump:visible");
    // The wheel moves it for a while.
    await page.waitForFunction(() => window.hasScrolled);
    await stream(run, s, 20, "later");
    await caughtUp(page, run);
    assert.equal(await page.evaluate(() => document.querySelector("workflow-run").view.taskCount), 120);
    assert.equal(await page.evaluate(() => inRow("later-20", ".step")), null);
    await page.click("workflow-run .jump");
    await row(page, "later-20", "completed");
    await page.waitForSelector("workflow-run .jump", { state: "hidden" });
    page.isClean();
    await page.close();
  });

  test("filter, errors only, collapse and expand, idle time", async () => {
    const { run, page } = await open(order(Date.now(), { until: "failed" }));
    await caughtUp(page, run);
    await row(page, "hand over-1", "failed");
    const names = () => page.evaluate(() => [...shadow(".page").querySelectorAll(".row[data-task]:not([hidden])")].sort((a, b) => a.ariaRowIndex - b.ariaRowIndex).map((element) => element.querySelector(".step").textContent));
    await page.fill("workflow-run .filter", "label");
    await page.waitForFunction(() => shadow(".matches").textContent === "1 match");
    assert.deepEqual(await names(), ["fulfil", "print label"]);
    await page.fill("workflow-run .filter", "nothing like it");
    await page.waitForSelector("workflow-run .empty:has-text('No task matches the filter')");
    await page.fill("workflow-run .filter", "");
    await page.click("workflow-run button:text('Errors only')");
    await page.waitForFunction(() => shadow(".matches").textContent === "3 matches");
    assert.deepEqual(await names(), ["charge card", "fulfil", "declare to customs", "hand over"]);
    await page.click("workflow-run button:text('Errors only')");
    await page.click("workflow-run button:text('Collapse all')");
    await page.waitForFunction(() => shadow("[role=treegrid]").getAttribute("aria-rowcount") === "9");
    assert.equal(await page.getAttribute("workflow-run .row[data-group]", "aria-expanded"), "false");
    await page.click("workflow-run button:text('Expand all')");
    await page.waitForFunction(() => shadow("[role=treegrid]").getAttribute("aria-rowcount") === "12");
    assert.equal(await page.locator("workflow-run .axis-head .mark[data-look=fold]:visible").count(), 2);
    await page.click("workflow-run button:text('Show idle time')");
    await page.waitForFunction(() => shadow(".axis-head").querySelectorAll("[data-look=fold]:not([hidden])").length === 0);
    page.isClean();
    await page.close();
  });

  test("everything can be done with the keyboard", async () => {
    const { run, page } = await open(order(Date.now(), { until: "waiting" }), { answers: true });
    await row(page, "wait for approval-1.waitForEvent", "waiting");
    await caughtUp(page, run);
    const active = () => page.evaluate(() => document.querySelector("workflow-run").shadowRoot.activeElement?.closest(".row")?.dataset.task ?? document.querySelector("workflow-run").shadowRoot.activeElement?.className);
    await page.focus("workflow-run .row[tabindex='0']");
    assert.equal(await page.locator("workflow-run .row[tabindex='0']").count(), 1);
    assert.equal(await active(), "check stock-1");
    for (const [key, task] of [
      ["ArrowDown", "charge card-1"], ["End", "wait for approval-1.waitForEvent"], ["Home", "check stock-1"], ["PageDown", "wait for approval-1.waitForEvent"],
      ["ArrowUp", "declare to customs-1"], ["ArrowLeft", "fulfil-1.group"], ["ArrowLeft", "fulfil-1.group"],
    ]) {
      await page.keyboard.press(key);
      assert.equal(await active(), task, key);
    }
    const expanded = () => page.getAttribute('workflow-run [data-task="fulfil-1.group"]', "aria-expanded");
    assert.equal(await expanded(), "false");
    await page.keyboard.press("ArrowRight");
    assert.equal(await expanded(), "true");
    await page.keyboard.press("ArrowRight");
    assert.equal(await active(), "pack parcels-1");
    await page.keyboard.press("Enter");
    await page.waitForSelector("workflow-run .panel pre:has-text('11.2 kg')");
    await page.keyboard.press("ArrowDown");
    await page.waitForFunction(() => shadow(".panel-title").textContent === "print label");
    await page.keyboard.press("Escape");
    await page.waitForSelector("workflow-run .panel", { state: "hidden" });
    assert.equal(await active(), "print label-1");
    await page.keyboard.press("End");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector("workflow-run").shadowRoot.activeElement?.id === "answer-payload");
    await page.keyboard.press("Escape");
    await page.keyboard.press("/");
    await page.waitForFunction(() => document.querySelector("workflow-run").shadowRoot.activeElement?.className === "filter");
    page.isClean();
    await page.close();
  });

  test("the row with the focus stays, wherever it is scrolled to", async () => {
    const s = new Script(Date.now()).begin();
    for (let n = 0; n < 400; n += 1) s.step("step", 1);
    const { run, page } = await open(s.events);
    await row(page, "step-400", "completed");
    await caughtUp(page, run);
    // At any scroll position Tab leads to a row.
    await page.focus("workflow-run .row[tabindex='0']");
    await page.evaluate(() => shadow(".scroller").scrollTo(0, 0));
    await row(page, "step-1", "completed");
    await page.click('workflow-run [data-task="step-2"]');
    await page.evaluate(() => shadow(".scroller").scrollTo(0, 6000));
    await drawn(page);
    assert.equal(await page.evaluate(() => document.querySelector("workflow-run").shadowRoot.activeElement?.dataset.task), "step-2");
    await page.keyboard.press("ArrowDown");
    assert.equal(await page.evaluate(() => document.querySelector("workflow-run").shadowRoot.activeElement?.dataset.task), "step-3");
    page.isClean();
    await page.close();
  });

  test("a screen reader announces the state and the failures, and little else", async () => {
    const s = new Script(Date.now()).begin();
    const { run, page } = await open(s.events);
    await page.evaluate(() => {
      window.told = [];
      new MutationObserver(() => window.told.push(shadow("[role=status].unseen").textContent)).observe(shadow("[role=status].unseen"), { childList: true, characterData: true, subtree: true });
    });
    await page.waitForSelector('workflow-run[data-connection="live"]');
    await page.waitForFunction(() => window.told.some((text) => text.includes("Running.")));
    await stream(run, s, 300);
    await caughtUp(page, run);
    // The page draws nothing before it has all failures, so that they are one announcement.
    await page.evaluate(() => {
      const { requestAnimationFrame } = window;
      const held = [];
      window.requestAnimationFrame = (call) => held.push(call);
      window.goOn = () => {
        window.requestAnimationFrame = requestAnimationFrame;
        held.forEach((call) => requestAnimationFrame(call));
      };
    });
    const from = s.events.length;
    for (let n = 0; n < 5; n += 1) s.fail(s.task("bad"), "no");
    s.end("bad luck");
    for (const [type, data] of s.events.slice(from)) run.add(type, data);
    await becomes(() => page.evaluate(() => document.querySelector("workflow-run").view.cursor), s.events.length, "events");
    await page.evaluate(() => window.goOn());
    await page.waitForFunction(() => window.told.some((text) => text.includes("Failed.")));
    const told = await page.evaluate(() => window.told);
    assert.ok(told.length <= 3, told.join(" | "));
    assert.ok(told.at(-1).includes("5 steps failed. Failed."), told.join(" | "));
    await page.close();
  });

  test("works anywhere in any page, and notifies it of events", async () => {
    const run = server.run("embedded");
    const s = new Script(Date.now()).begin();
    for (const [type, data] of s.events) run.add(type, data);
    const page = await visitIn(browser, `${server.url}/empty`, { init: [[helpers]] });
    await page.evaluate(async () => {
      await import("/ssetarget/workflow-run.js");
      window.seen = [];
      document.addEventListener("run-state", ({ detail }) => window.seen.push(detail.connection));
      const element = document.createElement("workflow-run");
      element.addEventListener("task", ({ detail }) => window.seen.push(`${detail.type} ${detail.task.taskId}`));
      document.body.append(element);
      element.setAttribute("src", "/embedded/sse");
    });
    await page.waitForSelector('workflow-run[data-connection="live"]');
    await stream(run, s, 1);
    await page.waitForFunction(() => window.seen.includes("completed step-1"));
    assert.deepEqual([...new Set(await page.evaluate(() => window.seen))], ["idle", "connecting", "live", "started step-1", "completed step-1"]);
    assert.equal(await page.evaluate(() => document.querySelector("workflow-run").showTask("step-1")), true);
    assert.equal(await page.evaluate(() => document.querySelector("workflow-run").showTask("other")), false);
    assert.equal(await page.evaluate(() => location.hash), "");
    // The element can be moved. Once removed, it has no connection.
    await page.waitForFunction(() => shadow(".panel:not([hidden])"));
    await page.evaluate(() => document.body.prepend(document.querySelector("workflow-run")));
    await page.waitForSelector('workflow-run[data-connection="live"]');
    await stream(run, s, 1, "after");
    await row(page, "after-1", "completed");
    assert.ok(server.log.includes("GET /embedded/sse?lastEventId=3"), "it goes on where it was");
    assert.ok(await page.evaluate(() => shadow(".panel:not([hidden])")), "and shows what it showed");
    // A server that sends all again, wherever its clients were, makes no event two.
    run.forgets = true;
    run.cut();
    await becomes(() => run.streams.size, 1, "streams");
    await stream(run, s, 1, "again");
    await row(page, "again-1", "completed");
    await page.click("workflow-run button:text-is('Events')");
    await page.waitForFunction((rows) => shadow(".grid[role=grid]").getAttribute("aria-rowcount") === String(rows), run.events.length);
    await page.evaluate(() => document.querySelector("workflow-run").remove());
    await becomes(() => run.streams.size, 0, "streams");
    await page.close();
  });

  test("what it says to a screen reader, it says after it was moved, too", async () => {
    const s = new Script(Date.now()).begin();
    s.task("one");
    const { run, page } = await open(s.events);
    const told = () => page.evaluate(() => shadow(".unseen").textContent);
    await becomes(told, "Running.", "what is said");
    for (const [type, data] of s.fail(s.task("two"), "no tape").events.slice(-2)) run.add(type, data);
    // The announcement waits for its time while the element is moved.
    await caughtUp(page, run);
    await page.evaluate(() => document.body.prepend(document.querySelector("workflow-run")));
    run.add(...s.end().events.at(-1));
    await until("the end is said", async () => /Completed\.$/.test(await told()));
    await page.close();
  });

  test("of another run, nothing of the one before is shown", async () => {
    const first = server.run("first");
    const s = new Script(Date.now() - 5000).begin().step("old", 1);
    s.task("ask", { kind: "waitForEvent", eventType: "go" });
    for (const [type, data] of s.events) first.add(type, data);
    const second = server.run("second");
    const page = await visitIn(browser, `${server.url}/empty`, { init: [[helpers]] });
    await page.evaluate(async () => {
      await import("/ssetarget/workflow-run.js");
      document.body.innerHTML = '<workflow-run src="/first/sse" answer="/first/event"></workflow-run>';
      window.shown = () => [...shadow(".page").querySelectorAll(".row[data-task]:not([hidden])")].map(({ dataset }) => dataset.task);
    });
    const change = (id) =>
      page.evaluate((other) => {
        const element = document.querySelector("workflow-run");
        element.setAttribute("src", `/${other}/sse`);
        element.setAttribute("answer", `/${other}/event`);
      }, id);
    await row(page, "ask-1.waitForEvent", "waiting");
    await page.click("workflow-run .row .answer:visible");
    await page.waitForSelector("workflow-run .answer-form:visible");
    // Nothing is known of the second one yet.
    await change("second");
    await page.waitForSelector("workflow-run .answer-form", { state: "hidden" });
    await page.waitForSelector('workflow-run[data-connection="live"][data-state="queued"]');
    await drawn(page);
    assert.deepEqual(await page.evaluate(() => window.shown()), []);
    assert.ok(await page.evaluate(() => shadow(".panel").hidden));
    assert.equal(await page.isVisible("workflow-run .banner .primary"), false);
    const t = new Script(Date.now()).begin().step("new", 1);
    for (const [type, data] of t.events) second.add(type, data);
    await row(page, "new-1", "completed");
    assert.deepEqual(await page.evaluate(() => window.shown()), ["new-1"]);
    await page.click("workflow-run button:text-is('Events')");
    await page.waitForFunction((rows) => shadow(".grid[role=grid]").getAttribute("aria-rowcount") === String(rows), second.events.length);
    await page.click("workflow-run .row.event:has-text('completed')");
    await page.waitForSelector("workflow-run .panel:visible");
    await change("first");
    await page.waitForFunction((rows) => shadow(".grid[role=grid]").getAttribute("aria-rowcount") === String(rows), first.events.length);
    assert.ok(await page.evaluate(() => shadow(".panel").hidden));
    await page.click("workflow-run button:text-is('Timeline')");
    await row(page, "ask-1.waitForEvent", "waiting");
    assert.deepEqual(await page.evaluate(() => window.shown()), ["old-1", "ask-1.waitForEvent"]);
    // Without a run there is none.
    await page.evaluate(() => document.querySelector("workflow-run").removeAttribute("src"));
    await page.waitForSelector("workflow-run .empty:has-text('Set the attribute src')");
    assert.deepEqual(await page.evaluate(() => document.querySelector("workflow-run").view.tasks), []);
    page.isClean();
    await page.close();
  });
});

/** Adds steps in pieces, as they arrive from a busy run. */
async function stream(run, script, steps, name = "step") {
  for (let n = 0; n < steps; n += 25) {
    const from = script.events.length;
    for (let step = n; step < Math.min(steps, n + 25); step += 1) script.step(name, 1);
    for (const [type, data] of script.events.slice(from)) run.add(type, data);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Waits until the row of a task is visible and has this look. */
async function row(page, task, look) {
  await until(
    async () => `${task} is ${look}; the rows are ${await page.evaluate(() => JSON.stringify([...(shadow(".page")?.querySelectorAll(".row:not([hidden])") ?? [])].map(({ dataset }) => `${dataset.task} ${dataset.look}`)))}`,
    () => page.evaluate(([id, state]) => inRow(id)?.dataset.look === state && inRow(id).getClientRects().length > 0, [task, look]),
  );
}

/** Waits until the page has received the last event of a run, and has drawn it. */
async function caughtUp(page, run) {
  await page.waitForFunction(() => document.querySelector("workflow-run").shadowRoot.querySelector(".page:not([hidden])"));
  await becomes(() => page.evaluate(() => document.querySelector("workflow-run").view.cursor), run.events.at(-1).id, "the last event");
  await drawn(page);
}

async function recordStates(page) {
  await page.evaluate(() => {
    window.states = [];
    document.addEventListener("run-state", ({ detail }) => window.states.push(`${detail.state} ${detail.phase} ${detail.connection}`));
  });
  return () => page.evaluate(() => window.states);
}

/** Runs in the page, before its own scripts. */
function helpers() {
  window.shadow = (selector) => document.querySelector("workflow-run")?.shadowRoot?.querySelector(selector) ?? null;
  window.inRow = (task, selector) => {
    const found = [...(document.querySelector("workflow-run")?.shadowRoot?.querySelectorAll(".row:not([hidden])") ?? [])].find((element) => element.dataset.task === task);
    return selector === undefined ? found : (found?.querySelector(selector) ?? null);
  };
}
