// docs/reliability.md names tests that there are; `npm test -- lint` checks it, and here is what that check notices.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { wrongTests } from "../../scripts/lib/matrix.mjs";
import { copyChanged, wrongMutations } from "../../scripts/mutations.mjs";

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

test("a defect that was put back is not in what is compiled next", (context) => {
  const folder = mkdtempSync(path.join(tmpdir(), "ssetarget-copy-"));
  context.after(() => rmSync(folder, { recursive: true }));
  const [from, to] = ["from", "to"].map((name) => path.join(folder, name));
  mkdirSync(path.join(from, "src"), { recursive: true });
  const files = ["src/changed.rs", "src/same.rs"];
  for (const file of files) writeFileSync(path.join(from, file), "right");
  copyChanged(files, from, to);
  // A defect is put in, compiled, and left behind; all that comes from git is older than that.
  writeFileSync(path.join(to, "src/changed.rs"), "wrong");
  writeFileSync(path.join(to, "src/gone.rs"), "");
  const compiled = Date.now() / 1000 - 60;
  for (const file of files) for (const tree of [from, to]) utimesSync(path.join(tree, file), compiled, compiled);
  copyChanged(files, from, to);
  const time = (file) => statSync(path.join(to, file)).mtimeMs / 1000;
  assert.equal(readFileSync(path.join(to, "src/changed.rs"), "utf8"), "right");
  assert.ok(time("src/changed.rs") > compiled + 30, "cargo would take what it has compiled of the defect");
  assert.ok(time("src/same.rs") < compiled + 1, "cargo would compile all of it again");
  assert.throws(() => statSync(path.join(to, "src/gone.rs")));
});
