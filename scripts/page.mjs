// node scripts/page.mjs [--check]: makes what browsers get, src/page/workflow-run.js and .css out of src/page/element, and
// src/page/workflow-runs.js and .css out of src/page/runs, which takes over some of the element. esbuild joins the modules, and
// leaves out comments, spaces and long names; its version is pinned, so that what is served is what the sources give.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { buildSync, transformSync } from "esbuild";

const FOLDER = new URL("../src/page/", import.meta.url);

/** The files, by their name in src/page. */
export function made() {
  const looks = read("element/workflow-run.css");
  // Colours, buttons and the head of the page: what both have.
  const shared = looks.slice(looks.indexOf(":host {"), looks.indexOf(".facts {"));
  return {
    "workflow-run.js": script("workflow-run", "element/element.js"),
    "workflow-run.css": stylesheet("workflow-run", "element", looks),
    "workflow-runs.js": script("workflow-runs", "runs/table.js"),
    "workflow-runs.css": stylesheet("workflow-runs", "runs", shared + read("runs/workflow-runs.css")),
  };
}

const MINIFIED = { minify: true, charset: "utf8", legalComments: "none", logLevel: "error", lineLimit: 4000 };

function script(element, entry) {
  const [{ text }] = buildSync({ ...MINIFIED, entryPoints: [fileURLToPath(new URL(entry, FOLDER))], bundle: true, format: "esm", target: "es2022", write: false }).outputFiles;
  return `/* <${element}>: made by scripts/page.mjs from src/page/${entry.split("/")[0]}, where it is to be read. */\n${text}`;
}

function stylesheet(element, folder, source) {
  const { code } = transformSync(source, { ...MINIFIED, loader: "css" });
  return `/* <${element}>: made by scripts/page.mjs from src/page/${folder}/${element}.css, where it is to be read. */\n${code}`;
}

function read(name) {
  return readFileSync(new URL(name, FOLDER), "utf8");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [name, text] of Object.entries(made())) {
    if (!process.argv.includes("--check")) {
      writeFileSync(new URL(name, FOLDER), text);
    } else if (read(name) !== text) {
      console.error(`src/page/${name} is not what it is made of gives: run node scripts/page.mjs`);
      process.exitCode = 1;
    }
  }
}
