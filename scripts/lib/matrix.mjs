// Compares the tests that the fault matrix in docs/reliability.md names with the tests that there are.
import { existsSync, readFileSync } from "node:fs";
import { at } from "./run.mjs";

/**
 * Returns what is wrong, as lines of text. In the tables whose last column is "observed by", each row names a test in
 * backticks: `runs::name` is the function of tests/runs.rs, `crash.test.mjs::title` the test or the group of
 * tests/e2e/crash.test.mjs, and without `::` the file as a whole is meant. "the same" is as in the row before.
 *
 * `read` returns the text of a file of the repository, or null.
 */
export function wrongTests(text = read("docs/reliability.md"), readFile = read) {
  const wrong = [];
  let [observes, rows] = [false, 0];
  for (const line of text.split("\n")) {
    const cells = line.startsWith("|") ? line.split("|").slice(1, -1).map((cell) => cell.trim()) : null;
    if (!cells) observes = false;
    else if (cells.at(-1) === "observed by") observes = true;
    else if (observes && !/^-+$/.test(cells[0])) {
      rows += 1;
      const names = [...cells.at(-1).matchAll(/`([^`]+)`/g)].map(([, name]) => name);
      if (names.length === 0 && !/\bthe same\b/.test(cells.at(-1))) wrong.push(`docs/reliability.md names no test for "${cells[0]}".`);
      for (const name of names) {
        const reason = missing(name, readFile);
        if (reason) wrong.push(`docs/reliability.md names \`${name}\` for "${cells[0]}": ${reason}`);
      }
    }
  }
  if (rows === 0) wrong.push('docs/reliability.md has no table with a column "observed by".');
  return wrong;
}

function missing(name, readFile) {
  const [place, ...rest] = name.split("::");
  const title = rest.join("::");
  const isScript = place.endsWith(".mjs");
  const file = place.includes("/") ? place : isScript ? `tests/e2e/${place}` : `tests/${place}.rs`;
  const code = readFile(file);
  if (code === null) return `there is no ${file}.`;
  if (!title) return null;
  const plain = title.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const found = isScript ? new RegExp(`\\b(test|describe)\\((["'\`])${plain}\\2`) : new RegExp(`\\bfn ${plain}\\(`);
  return found.test(code) ? null : `${file} has no such test.`;
}

function read(file) {
  return existsSync(at(file)) ? readFileSync(at(file), "utf8") : null;
}
