// Reads the names out of TypeScript's type declarations: members, parameters and text literals.

/**
 * The names of every declaration that `wanted` accepts, as paths: `Type.member.member`,
 * `Type.method.parameter`, and `Type.member="text"` for a text literal. A member of an object whose
 * `type` is one literal has that in its path: `Type.member[step_started]`.
 */
export function names(source, wanted) {
  const tokens = tokenize(source);
  const found = new Set();
  for (let at = 0; at < tokens.length; at += 1) {
    if (!["type", "interface", "class"].includes(tokens[at])) continue;
    const name = tokens[at + 1];
    if (!isName(name) || !wanted(name) || isMember(tokens, at)) continue;
    const end = declarationEnd(tokens, at + 2, tokens[at] === "type");
    collect(tokens.slice(at + 2, end), name, found);
    at = end - 1;
  }
  return [...found].sort();
}

function tokenize(source) {
  const pattern = /\/\*[^]*?\*\/|\/\/[^\n]*|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|[A-Za-z_$][\w$]*|=>|\d+|\S/g;
  return source.match(pattern).filter((token) => !/^\/[*/]/.test(token));
}

const isName = (token) => /^[A-Za-z_$]/.test(token ?? "");
/** `type: ...` or `type?: ...` is a member of that name. */
const isMember = (tokens, at) => [":", "?", ",", "}", "(", ";"].includes(tokens[at + 1]);

/** A type alias ends at its semicolon, a class or an interface at its brace. */
function declarationEnd(tokens, from, isAlias) {
  for (let at = from, depth = 0; at < tokens.length; at += 1) {
    if (OPENING.includes(tokens[at])) depth += 1;
    if (CLOSING.includes(tokens[at])) depth -= 1;
    if (depth === 0 && (isAlias ? tokens[at] === ";" : tokens[at] === "}")) return at + 1;
  }
  throw new Error("a declaration that does not end");
}

const OPENING = ["{", "(", "[", "<"];
const CLOSING = ["}", ")", "]", ">"];

/** Everything in the text of a type. */
function collect(tokens, path, found) {
  found.add(path);
  for (let at = 0; at < tokens.length; at += 1) {
    const token = tokens[at];
    if (token.startsWith('"')) found.add(`${path}=${token}`);
    if (token === "{") {
      const end = closing(tokens, at);
      members(tokens.slice(at + 1, end), path, found);
      at = end;
    }
  }
}

function members(tokens, path, found) {
  const list = split(tokens, [";", ","]).map(parse).filter(Boolean);
  const tag = list.find(({ name, type }) => name === "type" && type.length === 1 && type[0].startsWith('"'));
  const inner = tag ? `${path}[${tag.type[0].slice(1, -1)}]` : path;
  if (tag) found.add(inner);
  for (const { name, parameters, type } of list) {
    if (tag && name === "type") continue;
    collect(type, `${inner}.${name}`, found);
    // A pattern, `{ type, payload }: {...}`, has no name of its own.
    for (const parameter of split(parameters, [","]).map(parse).filter(Boolean)) collect(parameter.type, `${inner}.${name}.${parameter.name}`, found);
    if (parameters[0] === "{") members(parameters.slice(closing(parameters, 0) + 3, -1), `${inner}.${name}`, found);
  }
}

const MODIFIERS = ["public", "protected", "private", "abstract", "readonly", "static"];

/** A member or a parameter: its name, its parameters if it has some, and its type. */
function parse(tokens) {
  let at = 0;
  while (MODIFIERS.includes(tokens[at]) && tokens[at + 1] !== ":" && tokens[at + 1] !== "(") at += 1;
  const name = tokens[at];
  if (!isName(name)) return null;
  at += 1;
  if (tokens[at] === "?") at += 1;
  if (tokens[at] === "<") at = closing(tokens, at) + 1;
  let parameters = [];
  if (tokens[at] === "(") {
    const end = closing(tokens, at);
    parameters = tokens.slice(at + 1, end);
    at = end + 1;
  }
  const type = tokens[at] === ":" ? tokens.slice(at + 1) : [];
  // `sleep: (name: string) => Promise<void>` is a method too.
  if (type[0] === "(" && type[closing(type, 0) + 1] === "=>") {
    const end = closing(type, 0);
    return { name, parameters: type.slice(1, end), type: type.slice(end + 2) };
  }
  return { name, parameters, type };
}

/** Splits where one of these stands outside of brackets. */
function split(tokens, separators) {
  const parts = [[]];
  for (let at = 0; at < tokens.length; at += 1) {
    if (OPENING.includes(tokens[at])) {
      const end = closing(tokens, at);
      parts.at(-1).push(...tokens.slice(at, end + 1));
      at = end;
    } else if (separators.includes(tokens[at])) parts.push([]);
    else parts.at(-1).push(tokens[at]);
  }
  return parts.filter((part) => part.length > 0);
}

/** Where the bracket at this place is closed. */
function closing(tokens, from) {
  for (let at = from, depth = 0; at < tokens.length; at += 1) {
    if (OPENING.includes(tokens[at])) depth += 1;
    if (CLOSING.includes(tokens[at]) && --depth === 0) return at;
  }
  throw new Error("a bracket that is not closed");
}
