// node scripts/page.mjs [--check]: makes what browsers get, src/page/workflow-run.js and .css, out of src/page/element.
//
// The modules are joined into one, in which comments, spaces and the imports between them are left out, and private names are
// short. It knows as much of JavaScript as src/page/element needs: each statement there ends with a semicolon.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FOLDER = new URL("../src/page/", import.meta.url);
/** In this order each module comes after those that it imports. */
const MODULES = ["text", "model", "axis", "rows", "dom", "link", "pool", "timeline", "panel", "element"];
/** What the joined module exports. */
const EXPORTED = ["WorkflowRun"];

/** The files, by their name in src/page. */
export function made() {
  return { "workflow-run.js": script(MODULES.map((name) => read(`element/${name}.js`))), "workflow-run.css": stylesheet(read("element/workflow-run.css")) };
}

function script(sources) {
  const names = sources.flatMap((source) => [...source.matchAll(/^(?:export )?(?:async )?(?:function\*?|class|const|let) (\w+)/gm)].map((match) => match[1]));
  const twice = names.filter((name, index) => names.indexOf(name) !== index);
  if (twice.length > 0) throw new Error(`two modules have the same name at the top: ${twice.join(", ")}`);
  return `/* <workflow-run>: made by scripts/page.mjs from src/page/element, where it is to be read. */\n${sources.map((source) => short(source, shortNames(sources.join(""), names))).join("\n")}\n`;
}

const TOKEN = /(?<space>\s+|\/\/.*|\/\*[^]*?\*\/)|(?<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?<word>#?[\w$]+)|(?<other>[^])/y;
const REGEX = /\/(?:[^/\\\n[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*/y;

/** Without comments and spaces, and with short names for what nobody outside can name. */
function short(source, names) {
  const code = source.replace(/^import .*\n/gm, "").replace(/^export (?=(?:async )?(?:function\*?|class|const) (\w+))/gm, (word, name) => (EXPORTED.includes(name) ? word : ""));
  const renamed = (token) => names.get(token) ?? token;
  let out = "";
  for (let at = 0; at < code.length; ) {
    let token;
    if (code[at] === "`") {
      const end = endOfTemplate(code, at);
      token = code.slice(at, end).replace(/(?<=this\.)#\w+|\b[A-Z][A-Z_]+\b/g, renamed);
      at = end;
    } else {
      REGEX.lastIndex = TOKEN.lastIndex = at;
      const isRegex = code[at] === "/" && !"/*".includes(code[at + 1]) && /[(,=:[!&|?{};]$/.test(out);
      const match = (isRegex ? REGEX : TOKEN).exec(code);
      at += match[0].length;
      if (match.groups?.space) continue;
      token = match.groups?.word && !out.endsWith(".") ? renamed(match[0]) : match[0].startsWith("#") ? renamed(match[0]) : match[0];
    }
    const glued = (/[\w$]$/.test(out) && /^[\w$#]/.test(token)) || (/[+-]$/.test(out) && /^[+-]/.test(token));
    out += glued ? ` ${token}` : token;
  }
  return out.replaceAll(";}", "}").replaceAll(",}", "}").replaceAll(",)", ")").replaceAll(",]", "]");
}

function endOfTemplate(code, start) {
  let depth = 0;
  for (let at = start + 1; ; at += 1) {
    if (code[at] === "\\") at += 1;
    else if (depth === 0 && code[at] === "`") return at + 1;
    else if (depth > 0 && code[at] === "`") at = endOfTemplate(code, at) - 1;
    else if (code.startsWith("${", at)) depth += 1;
    else if (depth > 0 && code[at] === "}") depth -= 1;
  }
}

/** Short names for private members and constants, the shortest for those used most. */
function shortNames(code, all) {
  const uses = new Map();
  for (const [name] of code.matchAll(/(?<![\w$.])[A-Z][A-Z_]+\b|#[a-z]\w*/g)) {
    if (name.startsWith("#") || all.includes(name)) uses.set(name, (uses.get(name) ?? 0) + 1);
  }
  const names = new Map();
  let privates = 0;
  let constants = 0;
  for (const [name] of [...uses].sort((a, b) => b[1] - a[1])) {
    if (name.startsWith("#")) names.set(name, `#${letters(privates++)}`);
    else names.set(name, `$${letters(constants++)}`);
  }
  return names;
}

function letters(number) {
  const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const rest = Math.floor(number / alphabet.length);
  return (rest > 0 ? letters(rest - 1) : "") + alphabet[number % alphabet.length];
}

function stylesheet(source) {
  return `/* <workflow-run>: made by scripts/page.mjs from src/page/element/workflow-run.css, where it is to be read. */\n${source
    .replace(/\/\*[^]*?\*\//g, "")
    .replace(/\s+/g, " ")
    .replace(/ ?([{};,]) ?/g, "$1")
    .replace(/: /g, ":")
    .replaceAll(";}", "}")
    .trim()}\n`;
}

function read(name) {
  return readFileSync(new URL(name, FOLDER), "utf8");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [name, text] of Object.entries(made())) {
    if (!process.argv.includes("--check")) {
      writeFileSync(new URL(name, FOLDER), text);
    } else if (read(name) !== text) {
      console.error(`src/page/${name} is not what src/page/element gives: run node scripts/page.mjs`);
      process.exitCode = 1;
    }
  }
}
