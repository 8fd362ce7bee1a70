// The live page of one run. Everything it shows is a fold over the events of
// the stream; the fold is pure and runs without a browser, so it can be tested.
//
// The server promises each event exactly once and in order, across reconnects.
// So nothing here looks at event ids, dedupes, sorts or merges.

export const EVENT_TYPES = [
  'started', 'attempt_failed', 'progress', 'completed', 'failed', 'reset', 'restarted',
];

// ---------------------------------------------------------------- the fold --

/** The state before any event. */
export function initial() {
  return {
    /** Goes up whenever the tasks are thrown away, so that a view starts over. */
    epoch: 0,
    /** The number of the run; known only once the run was started again. */
    run: null,
    /** Set when history was lost: `{requested, oldest, head}`. */
    lost: null,
    /** taskId -> task, in the order of the log. Tasks are replaced, never changed. */
    tasks: new Map(),
    /** How the run ended: `{state: 'completed'|'failed', error, startedAt, endedAt}`. */
    result: null,
  };
}

/** The state after one event `{type, data}`. Leaves `state` as it was. */
export function apply(state, event) {
  return applyAll(state, [event]);
}

/** `apply` over many events, with one copy of the task map instead of one each. */
export function applyAll(state, events) {
  const draft = { ...state, tasks: new Map(state.tasks) };
  for (const { type, data } of events) {
    if (data === null || typeof data !== 'object') continue;
    if (type === 'reset') {
      clear(draft);
      draft.run = null;
      draft.lost = { requested: data.requested, oldest: data.oldest, head: data.head };
    } else if (type === 'restarted') {
      clear(draft);
      draft.run = data.run ?? null;
      draft.lost = null;
    } else if (typeof data.taskId === 'string' && Object.hasOwn(TASK_EVENTS, type)) {
      applyToTask(draft, type, data);
    }
  }
  return draft;
}

/** Whether a task may still change. */
export function isOpen(task) {
  return task.endedAt === null && OPEN_STATES.has(task.state);
}

const OPEN_STATES = new Set(['running', 'retrying', 'waiting', 'sleeping']);

function clear(draft) {
  draft.epoch += 1;
  draft.tasks = new Map();
  draft.result = null;
}

function applyToTask(draft, type, data) {
  // After a reset the first event seen of a task need not be its `started`.
  const before = draft.tasks.get(data.taskId) ?? blankTask(data);
  const task = { ...before, ...TASK_EVENTS[type](before, data) };
  draft.tasks.set(task.id, task);

  const isRoot = task.kind === 'workflow' && task.parentId === null;
  if (isRoot && (type === 'completed' || type === 'failed')) {
    draft.result = {
      state: type,
      error: type === 'failed' ? task.error : null,
      startedAt: task.startedAt,
      endedAt: task.endedAt,
    };
    stopWhatIsOpen(draft, task.endedAt);
  }
}

/** Steps the workflow did not wait for get no end of their own. */
function stopWhatIsOpen(draft, endedAt) {
  for (const [id, task] of draft.tasks) {
    if (isOpen(task)) draft.tasks.set(id, { ...task, state: 'stopped', endedAt });
  }
}

function blankTask(data) {
  return {
    id: data.taskId,
    step: String(data.step ?? data.taskId),
    kind: String(data.kind ?? 'do'),
    count: Number.isFinite(data.count) ? data.count : 1,
    parentId: typeof data.parentId === 'string' ? data.parentId : null,
    state: openState(data.kind),
    startedAt: null,
    endedAt: null,
    attempt: null,
    error: null,
    percent: null,
    message: null,
    attributes: null,
  };
}

function openState(kind) {
  switch (kind) {
    case 'sleep':
    case 'sleepUntil':
      return 'sleeping';
    case 'waitForEvent':
      return 'waiting';
    default:
      return 'running';
  }
}

/** What each event changes in its task. */
const TASK_EVENTS = {
  started: (_, data) => ({
    ...blankTask(data),
    startedAt: parseTime(data.timestamp),
    attributes: data.attributes ?? null,
  }),

  // What the failed attempt had reported is no longer true of the next one.
  attempt_failed: (task, data) => ({
    state: 'retrying',
    attempt: data.attempt ?? task.attempt,
    error: errorText(data.error),
    percent: null,
    message: null,
  }),

  progress: (task, data) => ({
    // No event says that a retry has begun; its first progress does.
    ...(task.state === 'retrying' ? { state: 'running', attempt: nextAttempt(task, data) } : {}),
    percent: percentOf(data.percent) ?? task.percent,
    message: data.message == null ? task.message : String(data.message),
    attributes: merge(task.attributes, data.attributes),
  }),

  completed: (task, data) => ({
    state: 'done',
    endedAt: parseTime(data.timestamp),
    attempt: data.attempt ?? task.attempt,
    attributes: merge(task.attributes, data.attributes),
  }),

  failed: (task, data) => ({
    state: 'failed',
    endedAt: parseTime(data.timestamp),
    attempt: data.attempt ?? task.attempt,
    error: errorText(data.error) ?? task.error,
    attributes: merge(task.attributes, data.attributes),
  }),
};

function nextAttempt(task, data) {
  if (data.attempt != null) return data.attempt;
  return task.attempt === null ? null : task.attempt + 1;
}

function parseTime(timestamp) {
  const time = Date.parse(timestamp);
  return Number.isNaN(time) ? null : time;
}

function percentOf(value) {
  return Number.isFinite(value) ? Math.min(100, Math.max(0, value)) : null;
}

function errorText(error) {
  if (error == null) return null;
  if (typeof error === 'object') return String(error.message ?? JSON.stringify(error));
  return String(error);
}

/** Later attributes win key by key; anything that is not an object replaces. */
function merge(before, after) {
  if (after == null) return before;
  return isRecord(before) && isRecord(after) ? { ...before, ...after } : after;
}

function isRecord(value) {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

// ------------------------------------------------------------------- words --

/**
 * What to say about the connection.
 *
 * A browser tells a page only `readyState`. The rest follows from what the
 * stream has said: a closed one after the terminal event is the server's 204,
 * before the first event it is the 404 of an unknown run, and in between it
 * is a refusal that the browser does not retry.
 */
export function connectionState(readyState, { opened, attempted, finished }) {
  if (readyState === 1) return 'live';
  if (readyState === 0) return attempted ? 'reconnecting' : 'connecting';
  if (finished) return 'ended';
  return opened ? 'lost' : 'unknown';
}

/** A span of milliseconds for people; `live` clocks count whole seconds. */
export function formatDuration(ms, live = false) {
  if (ms < 1000 && !live) return `${Math.round(ms)} ms`;
  if (ms < 9950 && !live) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = live ? Math.floor(ms / 1000) : Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${pad(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${pad(minutes % 60)} min`;
  return `${Math.floor(hours / 24)} d ${pad(hours % 24)} h`;
}

/** What to say about the attempts of a task; nothing while all is well. */
export function attemptsText({ state, attempt }) {
  if (attempt === null) return '';
  if (state === 'retrying') return `attempt ${attempt} failed`;
  if (state === 'done' || state === 'failed') {
    return attempt === 1 ? '1 attempt' : `${attempt} attempts`;
  }
  return `attempt ${attempt}`;
}

function pad(number) {
  return String(number).padStart(2, '0');
}

// -------------------------------------------------------------------- view --

const EVENTS_PER_FRAME = 500;
const CLOCK_MS = 1000;
const SEND_TIMEOUT_MS = 15_000;
/** Deeper groups are drawn at this depth: layout engines recurse. */
const MAX_DEPTH = 32;
const MAX_TEXT = 2000;
const MAX_NAME = 200;
const MAX_ATTRIBUTES = 50;

const ICONS = {
  running: '●', retrying: '↻', waiting: '◆', sleeping: '☾', done: '✓', failed: '✗', stopped: '–',
};

const KINDS = {
  __proto__: null, // a kind is whatever the server sent
  sleep: 'sleep', sleepUntil: 'sleep', waitForEvent: 'wait for event', workflow: 'workflow',
};

const CONNECTION_TEXT = {
  connecting: 'connecting…',
  live: 'live',
  reconnecting: 'reconnecting…',
  ended: 'ended',
  lost: 'connection lost',
  unknown: 'unknown run',
};

function start() {
  const base = location.pathname.replace(/\/+$/, '');
  const id = decode(base.slice(1));
  const page = Object.fromEntries(
    [...document.querySelectorAll('[id]')].map((node) => [node.id, node]),
  );
  const tree = createTree(page.tasks);
  const sender = createSender(page, `${base}/event`);

  let state = initial();
  let connection = 'connecting';
  let opened = false;
  let attempted = false;
  let queue = [];
  /** Below zero when this computer's clock is behind the one that wrote the log. */
  let skew = 0;

  setText(page.instance, id);

  const source = new EventSource(`${base}/sse`);
  source.addEventListener('open', () => {
    opened = attempted = true;
    schedule();
  });
  source.addEventListener('error', () => {
    attempted = true;
    schedule();
  });
  for (const type of EVENT_TYPES) {
    source.addEventListener(type, ({ data }) => {
      const event = { type, data: parse(data) };
      const time = parseTime(event.data?.timestamp);
      if (time !== null) skew = Math.min(skew, Date.now() - time);
      queue.push(event);
      schedule();
    });
  }

  const schedule = createScheduler(render);
  const clock = setInterval(() => {
    if (connection !== 'lost') tree.tick(now());
  }, CLOCK_MS);
  render();

  function render() {
    if (queue.length > 0) {
      const batch = queue.slice(0, EVENTS_PER_FRAME);
      queue = queue.slice(EVENTS_PER_FRAME);
      state = applyAll(state, batch);
      tree.show(state, now());
    }
    if (queue.length > 0) {
      schedule();
    } else {
      // Only now is it known whether the terminal event came before the close.
      const finished = state.result !== null;
      connection = connectionState(source.readyState, { opened, attempted, finished });
    }
    showHead();
    if (connection === 'ended' || connection === 'unknown') clearInterval(clock);
  }

  function showHead() {
    const { run, result, tasks } = state;
    page.connection.dataset.state = connection;
    // After the end the browser asks once more and is told 204; nothing is wrong.
    const finishing = connection === 'reconnecting' && result !== null;
    setText(page.connection, finishing ? 'finishing…' : CONNECTION_TEXT[connection]);

    page.run.hidden = run === null;
    setText(page.run, run === null ? '' : `· run ${run}`);

    const { counts, waits } = survey(tasks);
    setText(page.summary, summaryText(counts));
    showNotice(page.notice, connection, state.lost, id);
    showResult(page.result, result);
    sender.offer(waits);

    const mark = result ? ICONS[result.state === 'failed' ? 'failed' : 'done']
      : waits.length > 0 ? ICONS.waiting : '';
    const title = `${mark} ${id} · order`.trim();
    if (document.title !== title) document.title = title;
  }

  function now() {
    return Date.now() - skew;
  }
}

/** Runs `render` at most once a frame, and also, less often, in a hidden tab. */
function createScheduler(render) {
  let cancel = null;
  const run = () => {
    cancel?.();
    cancel = null;
    render();
  };
  document.addEventListener('visibilitychange', () => {
    // A frame that was asked for while visible does not come while hidden.
    if (cancel !== null) run();
  });
  return () => {
    if (cancel !== null) return;
    if (document.hidden) {
      const timer = setTimeout(run, 250);
      cancel = () => clearTimeout(timer);
    } else {
      const frame = requestAnimationFrame(run);
      cancel = () => cancelAnimationFrame(frame);
    }
  };
}

/** The tree of tasks. Touches only the rows whose task was replaced. */
function createTree(list) {
  let epoch = 0;
  let rows = new Map();
  /** parentId -> rows shown at the top because that parent was not seen yet. */
  let orphans = new Map();
  let open = new Set();

  return {
    show(state, now) {
      if (state.epoch !== epoch) {
        epoch = state.epoch;
        rows = new Map();
        orphans = new Map();
        open = new Set();
        list.replaceChildren();
      }
      for (const task of state.tasks.values()) {
        let row = rows.get(task.id);
        if (row?.task === task) continue;
        if (row === undefined) {
          row = createRow(task);
          rows.set(task.id, row);
          place(row);
        }
        updateRow(row, task, now);
        if (isOpen(task)) open.add(row);
        else open.delete(row);
      }
    },
    tick(now) {
      for (const row of open) showTime(row, now);
    },
  };

  function place(row) {
    const { id, parentId } = row.task;
    const parent = rows.get(parentId);
    if (parent !== undefined && parent !== row) {
      attach(row, parent);
    } else {
      list.append(row.item);
      if (parentId !== null) orphans.set(parentId, [...(orphans.get(parentId) ?? []), row]);
    }
    // After a reset a parent can turn up later than its children.
    for (const child of orphans.get(id) ?? []) {
      if (!child.item.contains(row.item)) attach(child, row);
    }
    orphans.delete(id);
  }

  function attach(row, parent) {
    if (parent.depth >= MAX_DEPTH) {
      parent.item.parentElement.append(row.item);
      row.depth = parent.depth;
      return;
    }
    if (parent.children === null) {
      parent.children = element('ol', 'tasks');
      parent.children.setAttribute('role', 'list');
      parent.item.append(parent.children);
    }
    parent.children.append(row.item);
    row.depth = parent.depth + 1;
  }
}

function createRow(task) {
  const item = element('li', 'task');
  item.dataset.task = task.id;
  const body = element('div', 'row');
  const icon = element('span', 'icon');
  icon.setAttribute('aria-hidden', 'true');
  const name = element('bdi', 'name');
  const label = element('span', 'state');
  const time = element('span', 'time');
  body.append(icon, name, label, time);
  item.append(body);
  return { task, item, body, icon, name, label, time, parts: {}, children: null, depth: 0 };
}

function updateRow(row, task, now) {
  row.task = task;
  row.item.dataset.state = task.state;
  row.item.dataset.kind = task.kind;
  setText(row.icon, ICONS[task.state]);
  const name = clip(task.step, MAX_NAME);
  setText(row.name, task.count > 1 ? `${name} #${task.count}` : name);
  // "sleeping" and "waiting" already say the kind.
  const kind = task.state === 'sleeping' || task.state === 'waiting' ? '' : KINDS[task.kind];
  setText(row.label, [task.state, kind, attemptsText(task)].filter(Boolean).join(' · '));
  showTime(row, now);
  if (task.startedAt !== null) {
    const title = `Started ${new Date(task.startedAt).toLocaleString()}`;
    if (row.time.title !== title) row.time.title = title;
  }
  showProgress(row, task);
  showText(row, 'error', errorLine(task));
  showAttributes(row, task.attributes);
}

function showTime(row, now) {
  const { startedAt, endedAt } = row.task;
  const live = isOpen(row.task);
  const end = live ? now : endedAt;
  const known = startedAt !== null && end !== null;
  setText(row.time, known ? formatDuration(Math.max(0, end - startedAt), live) : '');
}

function errorLine({ state, error }) {
  if (error === null) return '';
  return state === 'failed' ? error : `Last error: ${error}`;
}

function showProgress(row, { step, percent, message }) {
  if (percent === null) {
    row.parts.progress?.remove();
    delete row.parts.progress;
  } else {
    const box = part(row, 'progress', () => {
      const bar = element('progress');
      bar.max = 100;
      bar.setAttribute('aria-label', `Progress of ${clip(step, MAX_NAME)}`);
      const node = element('div', 'progress');
      node.append(bar, element('span', 'percent'));
      return node;
    });
    const [bar, number] = box.children;
    if (bar.value !== percent || !bar.hasAttribute('value')) bar.value = percent;
    setText(number, `${Math.round(percent)} %`);
  }
  showText(row, 'message', message ?? '');
}

function showText(row, name, value) {
  if (value === '') {
    row.parts[name]?.remove();
    delete row.parts[name];
    return;
  }
  const node = part(row, name, () => {
    const text = element('p', name);
    text.dir = 'auto';
    return text;
  });
  setText(node, clip(value));
}

function showAttributes(row, attributes) {
  if (row.attributes === attributes) return;
  row.attributes = attributes;
  row.parts.attributes?.remove();
  delete row.parts.attributes;
  if (attributes == null) return;

  const entries = isRecord(attributes) ? Object.entries(attributes) : [['value', attributes]];
  if (entries.length === 0) return;
  const list = part(row, 'attributes', () => element('dl', 'attributes'));
  for (const [key, value] of entries.slice(0, MAX_ATTRIBUTES)) {
    const pair = element('div');
    const term = element('dt');
    const detail = element('dd');
    term.dir = detail.dir = 'auto';
    setText(term, clip(key, MAX_NAME));
    setText(detail, clip(typeof value === 'string' ? value : JSON.stringify(value)));
    pair.append(term, detail);
    list.append(pair);
  }
  if (entries.length > MAX_ATTRIBUTES) {
    const more = element('div');
    const term = element('dt');
    setText(term, `and ${entries.length - MAX_ATTRIBUTES} more`);
    more.append(term);
    list.append(more);
  }
}

/** A piece of a row that most rows never need; the style sheet orders them. */
function part(row, name, create) {
  if (row.parts[name] === undefined) {
    row.parts[name] = create();
    const next = PARTS.slice(PARTS.indexOf(name) + 1).find((later) => row.parts[later]);
    row.body.insertBefore(row.parts[name], row.parts[next] ?? null);
  }
  return row.parts[name];
}

/** In reading order, below the line with the name. */
const PARTS = ['progress', 'message', 'error', 'attributes'];

function survey(tasks) {
  const counts = { steps: 0, done: 0, failed: 0 };
  const waits = [];
  for (const task of tasks.values()) {
    if (task.state === 'waiting' && isOpen(task)) waits.push(task);
    if (task.kind === 'workflow') continue;
    counts.steps += 1;
    if (task.state === 'done') counts.done += 1;
    if (task.state === 'failed') counts.failed += 1;
  }
  return { counts, waits };
}

function summaryText({ steps, done, failed }) {
  if (steps === 0) return '';
  const parts = [`${steps} ${steps === 1 ? 'step' : 'steps'}`, `${done} done`];
  if (failed > 0) parts.push(`${failed} failed`);
  return parts.join(' · ');
}

function showNotice(node, connection, lost, id) {
  let kind = '';
  let text = '';
  if (connection === 'unknown') {
    kind = 'unknown';
    text = `The run “${clip(id, MAX_NAME)}” is unknown. It was never started, or its log was deleted since.`;
  } else if (connection === 'lost') {
    kind = 'lost';
    text = 'The server refused to continue the stream. Reload the page to try again.';
  } else if (lost !== null) {
    kind = 'reset';
    text = 'History was lost: the events that should have come next are gone. '
      + `Shown from event ${lost.oldest ?? '?'}, the oldest one kept.`;
  }
  node.dataset.kind = kind;
  node.classList.toggle('banner', kind !== '');
  setText(node, text);
}

function showResult(node, result) {
  node.classList.toggle('banner', result !== null);
  if (result === null) {
    delete node.dataset.state;
    setText(node, '');
    return;
  }
  const { state, error, startedAt, endedAt } = result;
  const known = startedAt !== null && endedAt !== null;
  const time = known ? formatDuration(Math.max(0, endedAt - startedAt)) : '';
  node.dataset.state = state;
  if (state === 'completed') {
    setText(node, `${ICONS.done} Completed${time && ` in ${time}`}`);
  } else {
    setText(node, `${ICONS.failed} Failed${time && ` after ${time}`}: ${clip(error ?? 'no reason given')}`);
  }
}

/**
 * The button that answers an open wait. One is enough for any number of waits:
 * the event goes to the run, not to a step.
 */
function createSender(page, url) {
  const { actions, 'send-event': button, 'send-status': status, 'send-error': failure } = page;
  const name = element('bdi');
  const more = document.createTextNode('');
  button.append('Send event for “', name, '”', more);
  let asked = null;
  let sending = false;

  button.addEventListener('click', async () => {
    if (sending) return;
    const about = asked;
    report('Sending…', '', true);
    const reason = await post(url);
    // The wait may have ended meanwhile, and another one may have begun.
    if (about === asked) report(reason === null ? 'Sent.' : '', reason ?? '', false);
    else report('', '', false);
  });

  return {
    offer(waits) {
      const wait = waits[0];
      if (wait?.id !== asked) {
        asked = wait?.id;
        if (!sending) report('', '', false);
      }
      if (wait === undefined) {
        // Keyboard users must not be thrown back to the top of the page.
        if (document.activeElement === button) page['steps-title'].focus({ preventScroll: true });
        actions.hidden = true;
        return;
      }
      actions.hidden = false;
      setText(name, clip(wait.step, MAX_NAME));
      const others = waits.length - 1;
      more.data = others > 0 ? ` (and ${others} more)` : '';
    },
  };

  function report(done, failed, busy) {
    sending = busy;
    // Not `disabled`: that would take the focus away from the button.
    button.setAttribute('aria-disabled', String(busy));
    setText(status, done);
    setText(failure, failed);
  }
}

/** Sends the event; answers with why it failed, or null. */
async function post(url) {
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ type: 'waiting' }),
      signal: AbortSignal.timeout(SEND_TIMEOUT_MS),
    });
    if (response.ok) return null;
    const body = await response.text();
    const reason = errorText(parse(body)?.error) ?? body.trim();
    return `The event was not accepted (${response.status})${reason && `: ${clip(reason)}`}`;
  } catch (error) {
    return error.name === 'TimeoutError'
      ? 'The event was not sent: the server did not answer in time.'
      : 'The event was not sent: the server could not be reached.';
  }
}

function element(tag, className = '') {
  const node = document.createElement(tag);
  if (className !== '') node.className = className;
  return node;
}

/** Untrusted text reaches the page here and nowhere else, and only as text. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function clip(text, limit = MAX_TEXT) {
  const string = String(text);
  return string.length > limit ? `${string.slice(0, limit)}…` : string;
}

function parse(json) {
  try {
    return JSON.parse(json);
  } catch {
    return null;
  }
}

function decode(path) {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

if (typeof document !== 'undefined') start();
