// Elements, icons and words. Text is only ever inserted as text.

/**
 * Makes an element. `text` is its text, other names are attributes; `false` and `null` leave one out.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...Node} children
 * @returns {any}
 */
export function make(tag, { text, ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(node, name, value);
  if (text !== undefined) node.textContent = text;
  node.append(...children);
  return node;
}

/** Sets an attribute if it differs; `null` and `false` remove it. @param {Element} node @param {string} name @param {any} value */
export function set(node, name, value) {
  if (value === null || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else {
    const text = value === true ? "" : String(value);
    if (node.getAttribute(name) !== text) node.setAttribute(name, text);
  }
}

/** Sets the text if it differs. Returns the node. @param {any} node @param {string} text */
export function say(node, text) {
  if (node.said !== text) {
    node.said = text;
    node.textContent = text;
  }
  return node;
}

/** An icon whose shape `draw` chooses. @returns {SVGElement} */
export function icon(look = "") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  if (look) draw(svg, look);
  return svg;
}

/** @param {SVGElement} svg @param {string} look */
export function draw(svg, look) {
  if (svg.dataset.look === look) return;
  svg.dataset.look = look;
  /** @type {Element} */ (svg.firstChild).setAttribute("d", SHAPES[look] ?? SHAPES.queued);
}

/** @type {Record<string, string>} */
const SHAPES = {
  queued: "M8 2.5a5.5 5.5 0 1 1 0 11 5.5 5.5 0 0 1 0-11z",
  running: "M8 2.2a5.8 5.8 0 1 1-5.8 5.8",
  completed: "M2.8 8.6l3.4 3.4 7-7.6",
  failed: "M3.8 3.8l8.4 8.4M12.2 3.8l-8.4 8.4",
  terminated: "M3.5 3.5h9v9h-9z",
  stopped: "M3.5 8h9",
  retrying: "M13.2 8.4a5.3 5.3 0 1 1-1.3-4M12.6 1.6v3.2H9.4",
  waiting: "M8 1.8l6.2 6.2L8 14.2 1.8 8zM8 5.2v3.2M8 10.6v.2",
  sleeping: "M13.4 9.7A5.8 5.8 0 1 1 6.3 2.6a4.7 4.7 0 0 0 7.1 7.1z",
  paused: "M5.5 3.5v9M10.5 3.5v9",
  chevron: "M6 3.8L10.2 8 6 12.2",
  close: "M4 4l8 8M12 4l-8 8",
  down: "M8 2.8v10M3.8 8.8L8 13l4.2-4.2",
};
SHAPES.waitingForPause = SHAPES.paused;
SHAPES.rollingBack = SHAPES.retrying;

/** The word for a task's look. @type {Record<string, string>} */
export const TASK_WORDS = {
  running: "running", retrying: "retrying", waiting: "waiting", sleeping: "sleeping", completed: "done", failed: "failed", stopped: "stopped",
};

/** The word for the state of a run. @type {Record<string, string>} */
export const RUN_WORDS = {
  queued: "Queued", running: "Running", waiting: "Waiting", sleeping: "Sleeping", waitingForPause: "Pausing", paused: "Paused",
  rollingBack: "Rolling back", completed: "Completed", failed: "Failed", terminated: "Terminated",
};

/** The words for the connection. @type {Record<string, string>} */
export const LINK_WORDS = {
  idle: "not connected", connecting: "connecting", live: "live", reconnecting: "reconnecting", ended: "ended", expired: "expired",
  refused: "not allowed", unknown: "unknown run",
};

/** The word for a kind of task. @type {Record<string, string>} */
export const KIND_WORDS = { do: "step", sleep: "sleep", sleepUntil: "sleep until a time", waitForEvent: "wait for an event", workflow: "workflow" };
