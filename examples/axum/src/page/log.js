// Shows a log with nothing but the browser's own EventSource, which reconnects and resumes by
// itself: `Last-Event-ID` tells the server its position, and a 204 tells it to stop.
const id = location.pathname.slice(1);
const tasks = new Map();
let ended = false;

document.title = id;
document.querySelector("#name").textContent = id;
document.querySelector("#run").href = `/runs/${id}`;

const source = new EventSource(`/${id}/sse`);
source.addEventListener("open", () => connection("live"));
source.addEventListener("error", () => {
  const gone = source.readyState === EventSource.CLOSED;
  connection(!gone ? "reconnecting" : ended ? "ended" : "closed");
});
for (const type of ["message", "note"]) source.addEventListener(type, show);
for (const type of ["started", "progress", "attempt_failed", "completed", "failed"]) {
  source.addEventListener(type, (event) => {
    const data = JSON.parse(event.data);
    task(data).update(type, data);
    if (data.kind === "workflow") ended = type === "completed" || type === "failed";
    show(event);
  });
}
// The page has events that are no longer in the log: begin again.
source.addEventListener("reset", () => {
  tasks.clear();
  document.querySelector("#tasks").replaceChildren();
  document.querySelector("#events").replaceChildren();
});

function connection(state) {
  const element = document.querySelector("#connection");
  element.dataset.state = state;
  element.textContent = state;
}

function show(event) {
  const item = line("li", "", event.lastEventId && `${event.lastEventId} `, event.type, event.data);
  item.dataset.id = event.lastEventId;
  document.querySelector("#events").append(item);
}

/** The task of an event, drawn inside its parent. */
function task({ taskId, parentId, step }) {
  if (!tasks.has(taskId)) {
    const item = document.createElement("li");
    item.dataset.task = taskId;
    const state = line("p", "", "", step, "");
    const children = document.createElement("ol");
    item.append(state, children);
    (tasks.get(parentId)?.children ?? document.querySelector("#tasks")).append(item);
    tasks.set(taskId, {
      children,
      update(type, { percent, message, error, attributes }) {
        item.dataset.state = type === "progress" ? "started" : type;
        const text = error ?? message ?? (type === "completed" && attributes ? JSON.stringify(attributes) : "");
        const done = percent === undefined ? "" : `${percent} % `;
        if (text || done || type !== "started") state.lastChild.textContent = ` ${done}${text}`;
      },
    });
  }
  return tasks.get(taskId);
}

/** Text only ever becomes text. */
function line(tag, className, number, name, text) {
  const element = document.createElement(tag);
  element.className = className;
  const strong = document.createElement("strong");
  strong.textContent = name;
  const rest = document.createElement("span");
  rest.textContent = ` ${text}`;
  element.append(number, strong, rest);
  return element;
}

document.querySelector("#say").addEventListener("submit", async (submit) => {
  submit.preventDefault();
  const error = document.querySelector("#error");
  try {
    const body = new FormData(submit.target).get("text");
    const response = await fetch(`/${id}?type=note`, { method: "POST", body });
    if (!response.ok) throw new Error(await response.text());
    submit.target.reset();
    error.textContent = "";
  } catch (reason) {
    error.textContent = reason.message;
  }
});
