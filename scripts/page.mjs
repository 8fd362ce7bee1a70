// node scripts/page.mjs [--check]: makes the files that browsers get: src/page/workflow-run.js and .css from
// src/page/element, and src/page/workflow-runs.js and .css from src/page/runs and parts of the element.
//
// The modules are joined into one. Comments, spaces and the imports between them are left out, and names that nobody
// outside can know are shortened. The script knows only the JavaScript of src/page/element: each statement there ends
// with a semicolon, and a class declares only private members without parentheses.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FOLDER = new URL("../src/page/", import.meta.url);
/** The modules in an order in which each comes after its imports. */
const MODULES = ["text", "model", "axis", "rows", "dom", "link", "pool", "timeline", "panel", "element"];
const RUNS_MODULES = ["element/text", "element/dom", "element/pool", "runs/list", "runs/table"];
/** The exports of the joined modules. */
const EXPORTED = ["WorkflowRun", "WorkflowRuns"];

/** The files, by their name in src/page. */
export function made() {
  const looks = read("element/workflow-run.css");
  // Colours, buttons and the head of the page: the parts that both have.
  const shared = looks.slice(looks.indexOf(":host {"), looks.indexOf(".facts {"));
  return {
    "workflow-run.js": script("workflow-run", "element", MODULES.map((name) => read(`element/${name}.js`))),
    "workflow-run.css": stylesheet("workflow-run", "element", looks),
    "workflow-runs.js": script("workflow-runs", "runs", RUNS_MODULES.map((name) => read(`${name}.js`))),
    "workflow-runs.css": stylesheet("workflow-runs", "runs", shared + read("runs/workflow-runs.css")),
  };
}

function script(element, folder, sources) {
  const declared = sources.flatMap((source) => [...source.matchAll(/^(?:export )?(?:async )?(?:function\*?|class|const|let) (\w+)/gm)].map((match) => match[1]));
  const twice = declared.filter((name, index) => declared.indexOf(name) !== index);
  if (twice.length > 0) throw new Error(`two modules have the same name at the top: ${twice.join(", ")}`);
  const code = sources.map((source) =>
    source.replace(/^import .*\n/gm, "").replace(/^export (?=(?:async )?(?:function\*?|class|const) (\w+))/gm, (word, name) => (EXPORTED.includes(name) ? word : "")),
  );
  const all = [...tokensOf(code.join("\n"))];
  const names = shortNames(all);
  const tokens = joinedConstants(all);
  let out = "";
  for (const { text, isText } of tokens) {
    const token = isText ? text : (names.get(text) ?? text);
    const glued = (/[\w$]$/.test(out) && /^[\w$#]/.test(token)) || (/[+-]$/.test(out) && /^[+-]/.test(token));
    out += glued ? ` ${token}` : token;
    // A line end now and then, for people who look at it anyway.
    if (token === ";" && out.length - out.lastIndexOf("\n") > 4000) out += "\n";
  }
  out = out.replaceAll(";}", "}").replaceAll(",}", "}").replaceAll(",)", ")").replaceAll(",]", "]");
  return `/* <${element}>: made by scripts/page.mjs from src/page/${folder}, where it is to be read. */\n${out}\n`;
}

const TOKEN = /(?<space>\s+|\/\/.*|\/\*[^]*?\*\/)|(?<quoted>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?<word>#?[\w$]+)|(?<other>[^])/y;
const REGEX = /\/(?:[^/\\\n[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*/y;

/** The tokens of code, without comments and spaces. Code in template strings is included. */
function* tokensOf(code) {
  /** The number of open braces since the last `${`. */
  const templates = [];
  let before = "";
  for (let at = 0; at < code.length; ) {
    const goesOn = code[at] === "}" && templates.at(-1) === 0;
    if (code[at] === "`" || goesOn) {
      if (goesOn) templates.pop();
      const text = /[`}](?:[^`\\$]|\\.|\$(?!\{))*(?:`|\$\{)/y;
      text.lastIndex = at;
      const [found] = text.exec(code);
      if (found.endsWith("${")) templates.push(0);
      at += found.length;
      before = "`";
      yield { text: found, isText: true };
      continue;
    }
    REGEX.lastIndex = TOKEN.lastIndex = at;
    const isRegex = code[at] === "/" && !"/*".includes(code[at + 1]) && "(,=:[!&|?{};".includes(before);
    const match = (isRegex ? REGEX : TOKEN).exec(code);
    at += match[0].length;
    if (match.groups?.space) continue;
    if (match[0] === "{" && templates.length > 0) templates[templates.length - 1] += 1;
    if (match[0] === "}" && templates.length > 0) templates[templates.length - 1] -= 1;
    before = match[0];
    yield { text: match[0], isText: isRegex || match.groups.quoted !== undefined };
  }
}

/** Names that are never shortened, although something of ours may have the same: those of the browser, and words of the language. */
const KEPT = new Set("document window location history event name status top length parent self origin close open find stop print screen do if in of for let new var get set try static async await".split(" "));

/**
 * Short names for private members, and for variables whose name is used for nothing else: no property, no key, no
 * method. The most used name gets the shortest.
 */
function shortNames(tokens) {
  const uses = new Map();
  const other = new Set(KEPT);
  const variables = parametersOf(tokens);
  const open = [];
  tokens.forEach(({ text, isText }, index) => {
    if (isText) return;
    if ("([{".includes(text)) open.push(text);
    else if (")]}".includes(text)) open.pop();
    else if (/^#?[a-z_$][\w$]*$/i.test(text)) {
      uses.set(text, (uses.get(text) ?? 0) + 1);
      const before = tokens[index - 1]?.text;
      const after = tokens[index + 1]?.text;
      if (["const", "let", "function", "class"].includes(before)) variables.add(text);
      const isProperty = before === "." && tokens[index - 2]?.text !== ".";
      const startsEntry = open.at(-1) === "{" && ["{", ",", "}", ";", "get", "async", "*"].includes(before);
      if (isProperty || (startsEntry && [":", ",", "}", "(", "="].includes(after) && !(after === "=" && [";", "}"].includes(before)))) other.add(text);
    }
  });
  const names = new Map();
  const given = { private: 0, variable: 0 };
  for (const [name] of [...uses].sort((a, b) => b[1] - a[1])) {
    if (name.startsWith("#")) {
      names.set(name, `#${letters(given.private++)}`);
    } else if (variables.has(name) && !other.has(name) && !EXPORTED.includes(name)) {
      let short;
      do short = letters(given.variable++);
      while (uses.has(short) || KEPT.has(short));
      if (short.length < name.length) names.set(name, short);
    }
  }
  return names;
}

/** `const a = 1; const b = 2;` is `const a = 1, b = 2;`. */
function joinedConstants(tokens) {
  const joined = [];
  /** The first word of the statement around each open bracket. */
  const starts = [null];
  for (let at = 0; at < tokens.length; at += 1) {
    const { text, isText } = tokens[at];
    const last = starts.length - 1;
    if (text === ";" && starts[last] === "const" && tokens[at + 1]?.text === "const") {
      joined.push({ text: ",", isText: false });
      at += 1;
      continue;
    }
    joined.push(tokens[at]);
    if (isText) continue;
    if (text === ";") starts[last] = null;
    else starts[last] ??= text;
    if ("([{".includes(text)) starts.push(null);
    else if (")]}".includes(text)) starts.pop();
  }
  return joined;
}

/** The names of plain parameters: of arrows, functions, methods and `catch`. */
function parametersOf(tokens) {
  const names = new Set();
  const starts = [];
  tokens.forEach(({ text, isText }, index) => {
    if (isText) return;
    const after = tokens[index + 1]?.text;
    if (text === "(") starts.push(index);
    if (/^[a-z]\w*$/i.test(text) && after === "=" && tokens[index + 2]?.text === ">") names.add(text);
    if (text !== ")") return;
    const start = starts.pop();
    const isArrow = after === "=" && tokens[index + 2]?.text === ">";
    const before = tokens[start - 1]?.text;
    const isFunction = after === "{" && /^#?[a-z]\w*$/i.test(before) && !["if", "for", "while", "switch"].includes(before);
    if (!isArrow && !isFunction) return;
    let depth = 0;
    for (let at = start + 1; at < index; at += 1) {
      if ("([{".includes(tokens[at].text)) depth += 1;
      else if (")]}".includes(tokens[at].text)) depth -= 1;
      else if (depth === 0 && "(,".includes(tokens[at - 1].text) && /^[a-z]\w*$/i.test(tokens[at].text)) names.add(tokens[at].text);
    }
  });
  return names;
}

function letters(number) {
  const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const rest = Math.floor(number / alphabet.length);
  return (rest > 0 ? letters(rest - 1) : "") + alphabet[number % alphabet.length];
}

function stylesheet(element, folder, source) {
  return `/* <${element}>: made by scripts/page.mjs from src/page/${folder}/${element}.css, where it is to be read. */\n${source
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
      console.error(`src/page/${name} is not what it is made of gives: run node scripts/page.mjs`);
      process.exitCode = 1;
    }
  }
}
