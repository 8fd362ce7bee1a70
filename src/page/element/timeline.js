// The rows of the timeline: the contents of a row, and its bar.

import { MOST_SEGMENTS, lookOf, segmentsOf } from "./axis.js";
import { TASK_WORDS, draw, icon, make, say, set } from "./dom.js";
import { leftOf } from "./estimate.js";
import { hasErrors, isGroup, isSleep } from "./model.js";
import { brief, clock, duration, percentage, readable } from "./text.js";

/** @typedef {import("./model.js").Task} Task */

/** About how wide a character of a label is, in pixels: to place a label without measuring it. */
const CHARACTER = 6.4;
/** The deepest indentation of groups: a name needs some room. */
const DEEPEST_INDENT = 12;
let rowNumber = 0;

/** Makes a row of the timeline. */
export function taskRow() {
  const chevron = make("span", { class: "twisty" }, icon("chevron"));
  const mark = icon();
  const step = make("span", { class: "step", dir: "auto" });
  const badges = make("span", { class: "badges" });
  const status = make("div", { class: "cell status", role: "gridcell" });
  const time = make("div", { class: "cell time", role: "gridcell" });
  const track = make("div", { class: "track" });
  const fill = make("div", { class: "fill", hidden: true });
  const label = make("span", { class: "label", dir: "auto" });
  const answer = make("button", { class: "answer", type: "button", hidden: true, text: "Answer…" });
  track.append(label);
  rowNumber += 1;
  const element = make(
    "div",
    { class: "row", role: "row", id: `row-${rowNumber}`, tabindex: "-1", part: "row" },
    make("div", { class: "cell name", role: "gridcell" }, chevron, mark, step, badges, answer),
    status,
    time,
    make("div", { class: "cell line", role: "gridcell" }, track),
  );
  /** @type {HTMLElement[]} */
  const segments = [];
  return { element, chevron, mark, step, badges, status, time, track, fill, label, answer, segments, item: null, y: -1 };
}

/**
 * @typedef {object} Look the state that all rows share
 * @property {import("./axis.js").Axis} axis
 * @property {number} now
 * @property {any} estimate what is expected of the run and its tasks
 * @property {Task | null} selected
 * @property {Task | null} active the row that Tab leads to
 * @property {Task | null} slowest
 * @property {boolean} filtered
 * @property {boolean} canAnswer
 * @property {number} roots how many tasks are directly under the workflow
 */

/**
 * Points a row at a task.
 * @param {any} row @param {Task} task @param {number} index @param {Look} look
 */
export function paintTask(row, task, index, { axis, now, estimate, selected, active, slowest, filtered, canAnswer, roots }) {
  const { element } = row;
  const how = lookOf(task);
  const group = isGroup(task);
  const expandable = task.children.length > 0;

  set(element, "data-task", task.id);
  set(element, "data-look", how);
  set(element, "data-group", group);
  set(element, "data-idle", task.kind === "waitForEvent" || isSleep(task));
  set(element, "aria-rowindex", index + 2);
  set(element, "aria-level", task.depth + 1);
  set(element, "aria-posinset", task.place);
  set(element, "aria-setsize", task.parent ? task.parent.children.length : roots);
  set(element, "aria-expanded", expandable ? String(filtered || !task.collapsed) : null);
  set(element, "aria-selected", String(task === selected));
  set(element, "tabindex", task === active ? "0" : "-1");
  const depth = Math.min(task.depth, DEEPEST_INDENT);
  if (row.depth !== depth) element.style.setProperty("--depth", String((row.depth = depth)));

  draw(row.mark, how);
  say(row.step, readable(task.step, 200));
  set(row.step, "title", task.step.length > 24 ? readable(task.step, 400) : null);
  say(row.badges, badgesOf(task, slowest));
  say(row.status, TASK_WORDS[how]);
  say(row.time, timeOf(task, now));
  const asks = canAnswer && task.kind === "waitForEvent" && task.state === "running";
  if (row.answer.hidden === asks) row.answer.hidden = !asks;
  if (asks) {
    set(row.answer, "tabindex", task === active ? "0" : "-1");
    set(row.answer, "aria-label", `Answer ${readable(task.step, 80)}…`);
  }
  paintBar(row, task, group, axis, now, estimate);
}

/** @param {any} row @param {Task} task @param {boolean} group @param {import("./axis.js").Axis} axis @param {number} now @param {any} estimate */
function paintBar(row, task, group, axis, now, estimate) {
  const segments = group ? whole(task, now) : segmentsOf(task, now).slice(-MOST_SEGMENTS);
  let left = 1;
  let right = 0;
  for (let n = 0; n < Math.max(segments.length, row.segments.length); n += 1) {
    let node = row.segments[n];
    const segment = segments[n];
    if (segment === undefined) {
      if (!node.hidden) node.hidden = true;
      continue;
    }
    if (node === undefined) {
      node = make("div", { class: "bar" });
      row.segments.push(node);
      row.track.insertBefore(node, row.label);
    }
    if (node.hidden) node.hidden = false;
    const from = axis.at(segment.from);
    const to = axis.at(segment.to);
    left = Math.min(left, from);
    right = Math.max(right, to);
    place(node, from, to - from);
    set(node, "data-look", segment.look);
    set(node, "data-critical", task.critical && n === segments.length - 1);
  }

  const isLive = task.state === "running" && !task.retrying;
  const last = row.segments[segments.length - 1];
  const showsFill = task.percent !== null && isLive && last !== undefined && !group;
  if (row.fill.hidden === showsFill) row.fill.hidden = !showsFill;
  if (showsFill) {
    if (row.fill.parentNode !== last) last.append(row.fill);
    const width = `${task.percent}%`;
    if (row.fill.style.width !== width) row.fill.style.width = width;
  }

  const text = labelOf(task, now, estimate);
  say(row.label, text);
  if (text === "") {
    set(row.label, "data-at", null);
    return;
  }
  // Inside the bar if it fits there and the bar is thick enough, otherwise on the side that has more room.
  const need = (text.length * CHARACTER + 16) / axis.width;
  const inside = group || isSleep(task) || task.kind === "waitForEvent" ? 0 : right - left;
  const after = 1 - right;
  if (need <= inside) span(row.label, "in", left, inside);
  else if (after >= need || after >= Math.max(left, inside)) span(row.label, "after", right, after);
  else if (left >= inside) span(row.label, "before", 0, left);
  else span(row.label, "in", left, inside);
}

/** @param {any} label @param {string} where @param {number} left @param {number} width */
function span(label, where, left, width) {
  set(label, "data-at", where);
  place(label, left, width);
}

/** @param {any} node @param {number} left @param {number} width */
function place(node, left, width) {
  const x = `${(left * 100).toFixed(3)}%`;
  const w = `${(width * 100).toFixed(3)}%`;
  if (node.x !== x) node.style.left = node.x = x;
  if (node.w !== w) node.style.width = node.w = w;
}

/** @param {Task} task @param {number} now */
function whole(task, now) {
  const from = task.started ?? task.ended;
  return from === null ? [] : [{ from, to: Math.max(from, task.ended ?? now), look: lookOf(task) }];
}

/** @param {Task} task @param {Task | null} slowest */
function badgesOf(task, slowest) {
  const badges = [];
  if (task.collapsed && task.children.length > 0) badges.push(`${task.children.length}`);
  const failed = task.failedAttempts.length;
  const tries = Math.max(task.attempt ?? 0, failed + (task.state === "running" || task.state === "completed" ? 1 : 0));
  if (failed > 0 && tries > 1) badges.push(`×${tries}`);
  if (task === slowest) badges.push("slowest");
  if (task.rollback !== null) badges.push(`rollback ${readable(task.rollback.state, 20)}`);
  return badges.join(" · ");
}

/** How long a task takes or took. @param {Task} task @param {number} now */
export function timeOf(task, now) {
  if (task.started === null) return "";
  return task.ended === null ? duration(now - task.started, true) : duration(task.ended - task.started);
}

/** What is expected of a task. @param {Task} task @param {any} estimate of the run @param {number} now */
export function expected(task, estimate, now) {
  return task.state === "running" ? leftOf(estimate?.tasks?.[task.id], task.started, now) : "";
}

/** What a task says of itself, in one line. @param {Task} task @param {number} now @param {any} [estimate] of the run */
export function labelOf(task, now, estimate) {
  if (task.state === "failed") return readable(task.error ?? task.failedAttempts.at(-1)?.error ?? "");
  if (task.state === "stopped") return hasErrors(task) ? readable(task.failedAttempts.at(-1)?.error ?? "") : "";
  if (task.state === "completed") return readable(task.message ?? "");
  const parts = [];
  if (isSleep(task)) {
    if (task.until !== null) parts.push(task.until > now ? `wakes in ${duration(task.until - now, true)}` : "wakes now");
  } else if (task.kind === "waitForEvent") {
    if (task.eventType !== null) parts.push(`for “${readable(task.eventType, 60)}”`);
    if (task.until !== null && task.until > now) parts.push(`${duration(task.until - now, true)} left`);
  } else if (task.retrying) {
    if (task.retryAt !== null && task.retryAt > now) parts.push(`again in ${duration(task.retryAt - now, true)}`);
    const failed = task.failedAttempts.at(-1);
    if (failed) parts.push(`attempt ${failed.attempt}: ${readable(failed.error)}`);
    return parts.join(" · ");
  }
  const left = expected(task, estimate, now);
  if (task.percent !== null) parts.push(percentage(task.percent));
  if (task.message !== null) parts.push(readable(task.message));
  if (left) parts.push(left);
  return parts.join(" · ");
}

/**
 * The ticks and folds of the axis, in the head and behind the rows.
 * @param {HTMLElement} head @param {HTMLElement} back @param {import("./axis.js").Axis} axis
 */
export function paintAxis(head, back, axis) {
  const marks = [];
  for (const { x, text } of axis.ticks()) marks.push({ look: "tick", x, width: 0, text, title: null });
  for (const { x, width, from, to } of axis.folds) {
    marks.push({ look: "fold", x, width, text: brief(to - from), title: `${duration(to - from)} in which no step was at work, ${clock(from, to)} to ${clock(to, to)}` });
  }
  for (const [parent, withText] of /** @type {[HTMLElement, boolean][]} */ ([[head, true], [back, false]])) {
    while (parent.children.length < marks.length) parent.append(make("span", { class: "mark" }));
    [...parent.children].forEach((/** @type {any} */ node, index) => {
      const mark = marks[index];
      if (node.hidden !== (mark === undefined)) node.hidden = mark === undefined;
      if (mark === undefined) return;
      set(node, "data-look", mark.look);
      place(node, mark.x, mark.width);
      if (withText) say(node, mark.text);
      if (withText) set(node, "title", mark.title);
    });
  }
}

/** Makes a row of the list of events. */
export function eventRow() {
  const id = make("div", { class: "cell number", role: "gridcell" });
  const type = make("div", { class: "cell type", role: "gridcell", dir: "auto" });
  const data = make("div", { class: "cell data", role: "gridcell", dir: "ltr" });
  return { element: make("div", { class: "row event", role: "row", tabindex: "-1" }, id, type, data), id, type, data, item: null, y: -1 };
}

/** @param {any} row @param {{ id: number | null, type: string, data: string }} event @param {number} index @param {{ active: any, selected: any }} look */
export function paintEvent(row, event, index, { active, selected }) {
  set(row.element, "aria-rowindex", index + 1);
  set(row.element, "tabindex", event === active ? "0" : "-1");
  set(row.element, "aria-selected", String(event === selected));
  say(row.id, event.id === null ? "–" : String(event.id));
  say(row.type, event.type);
  say(row.data, readable(event.data, 400));
}
