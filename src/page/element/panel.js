// The panel beside the timeline: everything that is known about one task, the form of a wait, or one event as it came.

import { lookOf } from "./axis.js";
import { KIND_WORDS, TASK_WORDS, draw, icon, make, say, set } from "./dom.js";
import { length } from "./model.js";
import { ANOTHER_PAGE, clock, count, duration, isRedirect, percentage, readable } from "./text.js";
import { expected, timeOf } from "./timeline.js";

/** @typedef {import("./model.js").Task} Task */

const MOST_TEXT = 65_536;
const MOST_ATTEMPTS = 50;
const SEND_TIMEOUT_MS = 15_000;

export class Panel {
  /** @param {number} level of its heading @param {() => void} onClose @param {(type: string, payload: any) => Promise<Response>} send */
  constructor(level, onClose, send) {
    this.level = level;
    this.send = send;
    /** @type {Task | null} */ this.task = null;
    /** @type {any} */ this.event = null;
    this.version = -1;
    /** The tasks whose answers are under way. @type {Set<Task | null>} */ this.sending = new Set();
    this.mark = icon("queued");
    this.title = make("div", { class: "panel-title", role: "heading", "aria-level": level, dir: "auto" });
    const close = make("button", { class: "quiet", type: "button", "aria-label": "Close the details" }, icon("close"));
    close.addEventListener("click", onClose);
    this.facts = make("dl", { class: "facts-list" });
    this.body = make("div", { class: "panel-parts" });
    this.form = this.#makeForm();
    this.element = make(
      "section",
      { class: "panel", "aria-label": "Details", hidden: true, part: "panel" },
      make("div", { class: "panel-head" }, this.mark, this.title, close),
      make("div", { class: "panel-body", tabindex: "0", role: "group", "aria-label": "Details" }, this.form, this.facts, this.body),
    );
  }

  /** @param {Task} task */
  open(task) {
    if (this.task !== task) {
      this.formError("");
      say(this.outcome, "");
      this.type.value = task.eventType ?? "";
      this.payload.value = "";
      set(this.button, "aria-disabled", this.sending.has(task) && "true");
    }
    this.task = task;
    this.event = null;
    this.version = -1;
    this.element.hidden = false;
  }

  /** @param {{ id: number | null, type: string, data: string }} event */
  openEvent(event) {
    this.task = null;
    this.event = event;
    this.element.hidden = false;
    this.form.hidden = true;
    draw(this.mark, "queued");
    this.element.dataset.look = "stopped";
    say(this.title, `${event.id === null ? "" : `${event.id} `}${event.type}`);
    this.#showFacts([["Bytes", String(new Blob([event.data]).size)]]);
    this.body.replaceChildren(pre("data", pretty(event.data)));
  }

  close() {
    this.task = null;
    this.event = null;
    this.element.hidden = true;
  }

  /** Draws the task as it is now. @param {number} now @param {{ slowest: Task | null, length: number, canAnswer: boolean, estimate: any }} run */
  paint(now, run) {
    const { task } = this;
    if (task === null) return;
    const look = lookOf(task);
    this.element.dataset.look = look;
    draw(this.mark, look);
    say(this.title, readable(task.step, 400));
    const canAnswer = run.canAnswer && task.kind === "waitForEvent" && task.state === "running";
    if (this.form.hidden === canAnswer) this.form.hidden = !canAnswer;
    this.#showFacts(this.#factsOf(task, look, now, run));
    if (this.version === task.version) return;
    this.version = task.version;
    this.body.replaceChildren(...partsOf(task, now, this.level + 1));
  }

  /** @param {Task} task @param {string} look @param {number} now @param {{ slowest: Task | null, length: number, estimate: any }} run @returns {[string, string][]} */
  #factsOf(task, look, now, run) {
    const percent = run.length > 0 ? (100 * length(task)) / run.length : 0;
    const share = percent >= 1 ? ` (${percentage(Math.round(percent))} of the run)` : "";
    /** @type {[string, string | null | false][]} */
    const facts = [
      ["State", TASK_WORDS[look]],
      ["Kind", task.children.length > 0 ? `group of ${count(task.children.length, "task")}` : (KIND_WORDS[task.kind] ?? readable(task.kind, 40))],
      [task.ended === null ? "For" : "Took", timeOf(task, now) && timeOf(task, now) + share],
      ["What remains", expected(task, run.estimate, now).replace("left: ", "")],
      ["Began", task.started !== null && clock(task.started, now)],
      ["Ended", task.ended !== null && clock(task.ended, now)],
      ["Waits for", task.eventType !== null && readable(task.eventType)],
      ["Until", task.until !== null && clock(task.until, now)],
      ["Next attempt", task.retryAt !== null && clock(task.retryAt, now)],
      ["Attempt", task.attempt !== null && String(task.attempt)],
      ["Progress", task.percent !== null && percentage(task.percent)],
      ["Note", [task === run.slowest && "the slowest step so far", task.critical && "on the critical path"].filter(Boolean).join(", ")],
      ["Id", readable(task.id, 400)],
    ];
    return /** @type {[string, string][]} */ (facts.filter(([, value]) => value));
  }

  /** @param {[string, string][]} facts */
  #showFacts(facts) {
    const { facts: list } = this;
    while (list.children.length > facts.length * 2) list.lastChild.remove();
    facts.forEach(([name, value], index) => {
      if (list.children.length <= index * 2) list.append(make("dt"), make("dd", { dir: "auto" }));
      say(list.children[index * 2], name);
      say(list.children[index * 2 + 1], value);
    });
  }

  #makeForm() {
    this.type = make("input", { id: "answer-type", autocomplete: "off", spellcheck: "false", required: true });
    this.payload = make("textarea", { id: "answer-payload", rows: "4", spellcheck: "false", placeholder: '{ "approved": true }', "aria-describedby": "answer-error" });
    this.error = make("p", { id: "answer-error", class: "form-error", role: "alert" });
    this.outcome = make("p", { class: "form-outcome", role: "status" });
    this.button = make("button", { class: "primary", type: "submit", text: "Send" });
    const form = make(
      "form",
      { class: "answer-form", hidden: true, novalidate: true },
      make("label", { for: "answer-type", text: "Type of the event" }),
      this.type,
      make("label", { for: "answer-payload", text: "Payload, as JSON (may be left empty)" }),
      this.payload,
      this.error,
      make("div", { class: "form-end" }, this.button, this.outcome),
    );
    form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#submit();
    });
    this.payload.addEventListener("input", () => this.formError(""));
    this.payload.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    return form;
  }

  /** @param {string} text */
  formError(text) {
    say(this.error, text);
    set(this.payload, "aria-invalid", text !== "" && "true");
  }

  async #submit() {
    const type = this.type.value.trim();
    if (type === "") {
      this.formError("Say which type the event has.");
      this.type.focus();
      return;
    }
    let payload;
    try {
      payload = this.payload.value.trim() === "" ? undefined : JSON.parse(this.payload.value);
    } catch (error) {
      this.formError(`This is not JSON: ${/** @type {Error} */ (error).message}`);
      this.payload.focus();
      return;
    }
    const { task } = this;
    this.formError("");
    say(this.outcome, "Sending…");
    set(this.button, "aria-disabled", "true");
    if (this.sending.has(task)) return;
    this.sending.add(task);
    const wrong = await this.#deliver(type, payload);
    this.sending.delete(task);
    if (this.task !== task) return;
    set(this.button, "aria-disabled", null);
    say(this.outcome, wrong === null ? "Sent. The run goes on when it has read it." : "");
    if (wrong !== null) this.formError(wrong);
  }

  /** @param {string} type @param {unknown} payload @returns {Promise<string | null>} what went wrong */
  async #deliver(type, payload) {
    try {
      const answer = await this.send(type, payload);
      if (isRedirect(answer)) {
        const server = ANOTHER_PAGE[0].toUpperCase() + ANOTHER_PAGE.slice(1);
        return `${server}, so this may not have arrived. Log in, for example in another tab, and send it again.`;
      }
      if (answer.ok) return null;
      const why = readable(await answer.text(), 500, true).trim();
      if (answer.status === 401 || answer.status === 403) return "You may not answer this run with this link.";
      return `The server refused it (${answer.status})${why ? `: ${why}` : "."}`;
    } catch (error) {
      const isLate = /** @type {Error} */ (error).name === "TimeoutError";
      return isLate ? `There is no answer after ${SEND_TIMEOUT_MS / 1000} s; it may have arrived all the same.` : "The server cannot be reached.";
    }
  }
}

/** @param {URL} url @param {string} type @param {unknown} payload @param {boolean} withCredentials */
export function sendAnswer(url, type, payload, withCredentials) {
  return fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ type, payload }),
    // Followed to a login, it would be a GET that succeeds.
    redirect: "manual",
    credentials: withCredentials ? "include" : "same-origin",
    signal: AbortSignal.timeout(SEND_TIMEOUT_MS),
  });
}

/** @param {Task} task @param {number} now @param {number} level */
function partsOf(task, now, level) {
  const part = (/** @type {string} */ title, /** @type {Node} */ content) =>
    make("div", { class: "part" }, make("div", { class: "part-title", role: "heading", "aria-level": level, text: title }), content);
  const parts = [];
  if (task.error !== null) parts.push(part("Error", pre("error", readable(task.error, MOST_TEXT, true))));
  if (task.message !== null) parts.push(part("Message", pre("text", readable(task.message, MOST_TEXT, true))));
  if (task.failedAttempts.length > 0) {
    const shown = task.failedAttempts.slice(-MOST_ATTEMPTS);
    const left = task.failedAttempts.length - shown.length;
    const items = shown.map(({ attempt, error, ended }) =>
      make("li", {}, make("span", { class: "attempt", text: `Attempt ${attempt}${ended === null ? "" : `, ${clock(ended, now)}`}` }), pre("error", readable(error, MOST_TEXT, true))),
    );
    if (left > 0) items.unshift(make("li", { text: `${count(left, "earlier attempt")}` }));
    parts.push(part("Attempts that failed", make("ul", { class: "attempts" }, ...items)));
  }
  if (task.attributes !== null) parts.push(part("Attributes", pre("data", readable(JSON.stringify(task.attributes, null, 2), MOST_TEXT, true))));
  if (task.rollback !== null) parts.push(part("Rollback", pre("data", readable(JSON.stringify(task.rollback, null, 2), MOST_TEXT, true))));
  return parts;
}

/** @param {string} look @param {string} text */
function pre(look, text) {
  return make("pre", { class: look, dir: look === "data" ? "ltr" : "auto", text });
}

/** @param {string} data */
function pretty(data) {
  try {
    return readable(JSON.stringify(JSON.parse(data), null, 2), MOST_TEXT, true);
  } catch {
    return readable(data, MOST_TEXT, true);
  }
}
