// The demo page's fold, without a browser.  node --test tests/e2e/page-fold.test.mjs
import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  apply, applyAll, attemptsText, connectionState, formatDuration, initial, isOpen,
} from '../../examples/worker/src/page/page.js';

test('a run from start to end', () => {
  const state = fold(
    ['started', root()],
    ['started', step('charge', { timestamp: at(1) })],
    ['completed', step('charge', { timestamp: at(3), attempt: 1, attributes: { card: 'visa' } })],
    ['completed', root({ timestamp: at(4) })],
  );

  assert.deepEqual([...state.tasks.keys()], ['order', 'charge']);
  const charge = state.tasks.get('charge');
  assert.equal(charge.state, 'done');
  assert.equal(charge.parentId, 'order');
  assert.equal(charge.endedAt - charge.startedAt, 2000);
  assert.deepEqual(charge.attributes, { card: 'visa' });
  assert.deepEqual(state.result, {
    state: 'completed', error: null, startedAt: Date.parse(at(0)), endedAt: Date.parse(at(4)),
  });
});

test('apply leaves the state before it alone, and equals applyAll', () => {
  const events = [
    ['started', root()],
    ['started', step('charge')],
    ['started', step('left open')],
    ['attempt_failed', step('charge', { attempt: 1, error: 'declined' })],
    ['progress', step('charge', { percent: 5, attributes: { a: 1 } })],
    ['completed', step('charge', { attempt: 2 })],
    ['failed', root({ error: 'no' })],
    ['restarted', { run: 2, timestamp: at(9) }],
    ['started', root()],
    ['reset', { requested: 9, oldest: 1, head: 2 }],
    ['started', root()],
  ].map(([type, data]) => ({ type, data }));

  let state = initial();
  for (const event of events) {
    const before = structuredClone(state);
    const next = apply(deepFreeze(state), deepFreeze(event));
    assert.deepEqual(state, before);
    state = next;
  }
  assert.deepEqual(state, applyAll(initial(), events));
});

test('each kind of step opens in its own state', () => {
  const kinds = {
    do: 'running', workflow: 'running', sleep: 'sleeping', sleepUntil: 'sleeping', waitForEvent: 'waiting',
  };
  for (const [kind, expected] of Object.entries(kinds)) {
    const task = fold(['started', step('a', { kind })]).tasks.get('a');
    assert.equal(task.state, expected, kind);
    assert.ok(isOpen(task), kind);
  }
});

test('a failed attempt is kept as the last error, and its progress is dropped', () => {
  const events = [
    ['started', step('charge')],
    ['progress', step('charge', { percent: 80, message: 'nearly' })],
    ['attempt_failed', step('charge', { attempt: 1, error: 'declined' })],
  ];
  const retrying = fold(...events).tasks.get('charge');
  assert.equal(retrying.state, 'retrying');
  assert.equal(retrying.percent, null);
  assert.equal(retrying.message, null);
  assert.equal(attemptsText(retrying), 'attempt 1 failed');

  events.push(['progress', step('charge', { percent: 10 })]);
  const running = fold(...events).tasks.get('charge');
  assert.equal(running.state, 'running');
  assert.equal(attemptsText(running), 'attempt 2');

  events.push(['completed', step('charge', { attempt: 2 })]);
  const done = fold(...events).tasks.get('charge');
  assert.equal(done.state, 'done');
  assert.equal(done.error, 'declined');
  assert.equal(attemptsText(done), '2 attempts');
});

test('a step that fails for good does not end the run', () => {
  const state = fold(
    ['started', root()],
    ['started', step('charge')],
    ['attempt_failed', step('charge', { attempt: 1, error: 'declined' })],
    ['failed', step('charge', { attempt: 1, error: 'declined' })],
  );
  assert.equal(state.tasks.get('charge').state, 'failed');
  assert.equal(state.result, null);
});

test('a failed run says why, and stops what was left open', () => {
  const state = fold(
    ['started', root()],
    ['started', step('approval', { kind: 'waitForEvent' })],
    ['failed', root({ timestamp: at(7), error: 'out of stock' })],
  );
  assert.equal(state.result.state, 'failed');
  assert.equal(state.result.error, 'out of stock');
  const approval = state.tasks.get('approval');
  assert.equal(approval.state, 'stopped');
  assert.equal(approval.endedAt, Date.parse(at(7)));
});

test('a workflow task that has a parent is not the run', () => {
  const state = fold(
    ['started', root()],
    ['completed', step('child', { kind: 'workflow' })],
  );
  assert.equal(state.result, null);
});

test('a group is a parent without attempts of its own', () => {
  const state = fold(
    ['started', step('group')],
    ['started', step('inner', { parentId: 'group' })],
    ['completed', step('inner', { parentId: 'group', attempt: 1 })],
    ['completed', step('group')],
  );
  assert.equal(state.tasks.get('inner').parentId, 'group');
  assert.equal(attemptsText(state.tasks.get('group')), '');
  assert.equal(attemptsText(state.tasks.get('inner')), '1 attempt');
});

test('progress is clamped, keeps what it does not mention, and merges attributes', () => {
  const task = fold(
    ['started', step('pack')],
    ['progress', step('pack', { percent: 250, message: 'boxes', attributes: { boxes: 1, by: 'ann' } })],
    ['progress', step('pack', { attributes: { boxes: 2 } })],
    ['progress', step('pack', { percent: 'NaN' })],
  ).tasks.get('pack');
  assert.equal(task.percent, 100);
  assert.equal(task.message, 'boxes');
  assert.deepEqual(task.attributes, { boxes: 2, by: 'ann' });
  assert.equal(fold(['progress', step('pack', { percent: -1 })]).tasks.get('pack').percent, 0);
});

test('reset clears everything and says so; the first event of a task may then be any', () => {
  const state = fold(
    ['restarted', { run: 3, timestamp: at(0) }],
    ['started', root()],
    ['completed', root()],
    ['reset', { requested: 40, oldest: 5, head: 9 }],
    ['completed', step('late', { timestamp: at(2) })],
  );
  assert.deepEqual(state.lost, { requested: 40, oldest: 5, head: 9 });
  assert.equal(state.run, null);
  assert.equal(state.result, null);
  assert.deepEqual([...state.tasks.keys()], ['late']);
  assert.equal(state.tasks.get('late').startedAt, null);
  assert.equal(state.epoch, 2);
});

test('restarted clears the tasks, the result and the loss, and names the run', () => {
  const state = fold(
    ['reset', { requested: 40, oldest: 5, head: 9 }],
    ['failed', root({ error: 'x' })],
    ['restarted', { run: 2, timestamp: at(5) }],
  );
  assert.equal(state.run, 2);
  assert.equal(state.lost, null);
  assert.equal(state.result, null);
  assert.equal(state.tasks.size, 0);
});

test('hostile names are only names', () => {
  const state = fold(
    ['started', step('__proto__')],
    ['progress', step('__proto__', { attributes: JSON.parse('{"__proto__":{"x":1}}') })],
    ['started', step('<img src=x onerror=alert(1)>')],
  );
  assert.equal(state.tasks.size, 2);
  assert.equal({}.x, undefined);
  assert.equal(state.tasks.get('__proto__').x, undefined);
});

test('what is not understood is skipped', () => {
  const state = fold(
    ['started', null],
    ['started', 'text'],
    ['started', {}],
    ['constructor', step('a')],
    ['unheard_of', step('a')],
  );
  assert.deepEqual(state, initial());
});

test('a plain 2.x event is enough', () => {
  const state = fold(
    ['started', { taskId: 'a', step: 'pay', timestamp: at(0) }],
    ['failed', { taskId: 'a', timestamp: at(1), error: { message: 'no' } }],
  );
  const task = state.tasks.get('a');
  assert.equal(task.step, 'pay');
  assert.equal(task.state, 'failed');
  assert.equal(task.error, 'no');
});

test('ten thousand steps fold quickly in batches', () => {
  const events = [];
  for (let n = 0; n < 10_000; n += 1) {
    events.push({ type: 'started', data: step(`s${n}`) }, { type: 'completed', data: step(`s${n}`) });
  }
  let state = initial();
  for (let n = 0; n < events.length; n += 500) state = applyAll(state, events.slice(n, n + 500));
  assert.equal(state.tasks.size, 10_000);
});

test('the connection is named by what the browser and the stream said', () => {
  const fresh = { opened: false, attempted: false, finished: false };
  const opened = { opened: true, attempted: true, finished: false };
  const finished = { ...opened, finished: true };
  assert.equal(connectionState(0, fresh), 'connecting');
  assert.equal(connectionState(1, opened), 'live');
  assert.equal(connectionState(0, opened), 'reconnecting');
  assert.equal(connectionState(0, { ...fresh, attempted: true }), 'reconnecting');
  assert.equal(connectionState(2, finished), 'ended');
  assert.equal(connectionState(2, { ...fresh, attempted: true }), 'unknown');
  assert.equal(connectionState(2, opened), 'lost');
});

test('durations', () => {
  const cases = [
    [0, '0 ms', '0 s'],
    [999, '999 ms', '0 s'],
    [2149, '2.1 s', '2 s'],
    [9949, '9.9 s', '9 s'],
    [9950, '10 s', '9 s'],
    [59_999, '1 min 00 s', '59 s'],
    [65_000, '1 min 05 s', '1 min 05 s'],
    [3_720_000, '1 h 02 min', '1 h 02 min'],
    [183_600_000, '2 d 03 h', '2 d 03 h'],
  ];
  for (const [ms, exact, live] of cases) {
    assert.equal(formatDuration(ms), exact);
    assert.equal(formatDuration(ms, true), live);
  }
});

function fold(...events) {
  return applyAll(initial(), events.map(([type, data]) => ({ type, data })));
}

function root(fields = {}) {
  return { taskId: 'order', step: 'order', kind: 'workflow', count: 1, timestamp: at(0), parentId: null, ...fields };
}

function step(taskId, fields = {}) {
  return { taskId, step: taskId, kind: 'do', count: 1, timestamp: at(0), parentId: 'order', ...fields };
}

function at(second) {
  return new Date(Date.UTC(2026, 10, 23, 14, 0, second)).toISOString();
}

function deepFreeze(value) {
  if (value instanceof Map) value.forEach(deepFreeze);
  else if (value !== null && typeof value === 'object') Object.values(value).forEach(deepFreeze);
  return Object.freeze(value);
}
