// Firefox by WebDriver BiDi, which it speaks itself: no driver is between.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { PATIENCE_MS } from "./wait.mjs";

const found = ["firefox-esr", "firefox"].map((name) => spawnSync("which", [name], { encoding: "utf8" }).stdout.trim()).find(Boolean);
export const firefox = process.env.FIREFOX ?? found;
/** Why tests in Firefox are skipped, or false. */
export const skip = firefox ? false : "there is no Firefox: apt-get install firefox-esr, or set FIREFOX to its path";

const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

/** Starts it, and opens this address. Resolves to `{ version, goto, evaluate, until, click, type, close }`. */
export async function visit(url) {
  const profile = mkdtempSync(path.join(tmpdir(), "ssetarget-firefox-"));
  const child = spawn(firefox, ["--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"], { stdio: ["ignore", "ignore", "pipe"] });
  running.add(child);
  const address = await new Promise((resolve, reject) => {
    let text = "";
    child.stderr.setEncoding("utf8").on("data", (part) => {
      text += part;
      const listens = text.match(/WebDriver BiDi listening on (ws:\S+)/);
      if (listens) resolve(listens[1]);
    });
    child.once("close", () => reject(new Error(`firefox has ended:\n${text}`)));
  });
  const socket = new WebSocket(`${address}/session`);
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error("firefox does not answer"));
  });
  let number = 0;
  const asked = new Map();
  socket.onmessage = ({ data }) => {
    const answer = JSON.parse(data);
    asked.get(answer.id)?.(answer);
    asked.delete(answer.id);
  };
  const ask = async (method, params) => {
    number += 1;
    const id = number;
    socket.send(JSON.stringify({ id, method, params }));
    const { type, result, message } = await new Promise((resolve) => asked.set(id, resolve));
    if (type === "error") throw new Error(`${method}: ${message}`);
    return result;
  };
  const { capabilities } = await ask("session.new", { capabilities: {} });
  const { contexts } = await ask("browsingContext.getTree", {});
  const { context } = contexts[0];
  const goto = (to) => ask("browsingContext.navigate", { context, url: to, wait: "complete" });
  await goto(url);

  /** The value of an expression, which JSON can have. */
  const evaluate = async (expression) => {
    const { type, result, exceptionDetails } = await ask("script.evaluate", { expression: `Promise.resolve(${expression}).then((value) => JSON.stringify(value ?? null))`, target: { context }, awaitPromise: true });
    if (type !== "success") throw new Error(exceptionDetails.text);
    return JSON.parse(result.value);
  };
  const until = async (expression) => {
    for (const deadline = performance.now() + PATIENCE_MS; performance.now() < deadline; ) {
      if (await evaluate(expression)) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`it is never so: ${expression}`);
  };
  return {
    version: capabilities.browserVersion,
    goto,
    evaluate,
    until,
    /** Clicks with the mouse on the middle of an element, once it is visible and does not move. */
    async click(element) {
      await evaluate(`(async () => {
        const box = () => new Promise((resolve) => requestAnimationFrame(() => resolve(JSON.stringify((${element}).getBoundingClientRect()))));
        for (let last = ""; ; ) {
          const now = await box();
          if (now === last && JSON.parse(now).width > 0) return;
          last = now;
        }
      })()`);
      const { x, y } = await evaluate(`(({ x, y, width, height }) => ({ x: Math.round(x + width / 2), y: Math.round(y + height / 2) }))((${element}).getBoundingClientRect())`);
      const mouse = [{ type: "pointerMove", x, y }, { type: "pointerDown", button: 0 }, { type: "pointerUp", button: 0 }];
      await ask("input.performActions", { context, actions: [{ type: "pointer", id: "mouse", actions: mouse }] });
    },
    /** Types into what has the focus. */
    async type(text) {
      const keys = [...text].flatMap((value) => [{ type: "keyDown", value }, { type: "keyUp", value }]);
      await ask("input.performActions", { context, actions: [{ type: "key", id: "keyboard", actions: keys }] });
    },
    async close() {
      socket.close();
      const ended = new Promise((resolve) => child.once("close", resolve));
      child.kill("SIGKILL");
      await ended;
      running.delete(child);
      rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
