// docs/reliability.md names tests that there are; `npm test -- lint` checks it, and here is what that check notices.
import assert from "node:assert/strict";
import { test } from "node:test";
import { wrongTests } from "../../scripts/lib/matrix.mjs";
import { wrongMutations } from "../../scripts/mutations.mjs";

const FILES = { "tests/replay.rs": "fn killed() {", "tests/e2e/crash.test.mjs": 'test("in mid-step (twice)", ', "tests/redis/failures.rs": "" };
const check = (...cells) => wrongTests(`| fault | observed by |\n|---|---|\n${cells.map((cell) => `| a fault | ${cell} |\n`).join("")}`, (file) => FILES[file] ?? null);

test("a test that is there is well named, by its function, its title or its file", () => {
  assert.deepEqual(check("`replay::killed`, `replay` (calm)", "the same", "`crash.test.mjs::in mid-step (twice)`", "`tests/redis/failures.rs`"), []);
  assert.deepEqual(wrongTests(), []);
});

test("a test that is not there, and a row without one, are noticed", () => {
  assert.deepEqual(check("`replay::kill`", "`crash.test.mjs::in mid-step`", "`gone.test.mjs`", "by hand"), [
    'docs/reliability.md names `replay::kill` for "a fault": tests/replay.rs has no such test.',
    'docs/reliability.md names `crash.test.mjs::in mid-step` for "a fault": tests/e2e/crash.test.mjs has no such test.',
    'docs/reliability.md names `gone.test.mjs` for "a fault": there is no tests/e2e/gone.test.mjs.',
    'docs/reliability.md names no test for "a fault".',
  ]);
  assert.match(wrongTests("no table").join(), /has no table/);
});

test("a defect whose text has changed is noticed", () => {
  const read = () => "a b a";
  const wrong = wrongMutations([{ name: "once", file: "f", from: "b" }, { name: "twice", file: "f", from: "a" }, { name: "gone", file: "f", from: "c" }], read);
  assert.deepEqual(wrong, ["tests/mutations.json: the text of twice is 2 times in f.", "tests/mutations.json: the text of gone is 0 times in f."]);
  assert.deepEqual(wrongMutations(), []);
});
