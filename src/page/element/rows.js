// Which tasks are shown, and in which order: the tree without what is collapsed or filtered out. Pure.

import { hasErrors, preorder } from "./model.js";

/** @typedef {import("./model.js").Task} Task */

export class Rows {
  constructor() {
    /** @type {Task[]} */ this.list = [];
    this.text = "";
    this.errorsOnly = false;
    /** Whether `list` must be computed again before it is read. */
    this.stale = false;
    /** How many tasks match the filter; only if there is one. */
    this.matches = 0;
  }

  get isFiltered() {
    return this.text !== "" || this.errorsOnly;
  }

  /** @param {string} text @param {boolean} errorsOnly */
  filter(text, errorsOnly) {
    this.text = text.trim().toLowerCase();
    this.errorsOnly = errorsOnly;
    this.stale = true;
  }

  /**
   * Notes that a task began or changed. A new last task, as most are, costs nothing; one in the middle makes the list
   * stale, which costs once for each drawing.
   * @param {Task} task
   */
  changed(task) {
    if (this.stale) return;
    if (this.isFiltered) {
      this.stale = true;
    } else if (task.version === 1) {
      const { parent } = task;
      if (parent === null) this.#push(task);
      else if (isHidden(task)) return;
      else if (this.#isLast(parent)) this.#push(task);
      else this.stale = true;
    }
  }

  /** The rows, up to date. @param {Task[]} roots */
  of(roots) {
    if (this.stale) this.#fill(roots);
    return this.list;
  }

  clear() {
    this.list = [];
    this.stale = true;
  }

  /** @param {Task} task */
  #push(task) {
    task.row = this.list.length;
    this.list.push(task);
  }

  /** Whether the last row is this task's or one inside of it. @param {Task} parent */
  #isLast(parent) {
    /** @type {Task | null} */
    let task = this.list[this.list.length - 1] ?? null;
    while (task !== null && task !== parent) task = task.parent;
    return task === parent;
  }

  /** @param {Task[]} roots */
  #fill(roots) {
    this.stale = false;
    for (const task of this.list) task.row = -1;
    this.list = [];
    /** @type {Set<Task> | null} */
    let kept = null;
    if (this.isFiltered) {
      kept = new Set();
      this.matches = 0;
      for (const task of preorder(roots)) {
        if (!this.#matches(task)) continue;
        this.matches += 1;
        // Together with its groups, so that its place is clear.
        for (let at = /** @type {Task | null} */ (task); at !== null && !kept.has(at); at = at.parent) kept.add(at);
      }
    }
    const left = [...roots].reverse();
    while (left.length > 0) {
      const task = /** @type {Task} */ (left.pop());
      if (kept !== null && !kept.has(task)) continue;
      this.#push(task);
      if (task.collapsed && kept === null) continue;
      for (let n = task.children.length - 1; n >= 0; n -= 1) left.push(task.children[n]);
    }
  }

  /** @param {Task} task */
  #matches(task) {
    if (this.errorsOnly && !hasErrors(task)) return false;
    if (this.text === "") return true;
    return [task.step, task.message, task.error, task.eventType].some((text) => text !== null && text.toLowerCase().includes(this.text));
  }
}

/** Whether it is inside a collapsed task. @param {Task} task */
export function isHidden(task) {
  for (let at = task.parent; at !== null; at = at.parent) if (at.collapsed) return true;
  return false;
}
