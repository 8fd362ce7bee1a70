// Compares the Workflows API in Cloudflare's types with the bindings in src/.
import { names } from "./types.mjs";

/** The declarations that are the Workflows API. */
export const isWorkflows = (name) => /^Workflow|^(InstanceStatus|NonRetryableError)$/.test(name);

/**
 * Returns the errors, in words; an empty list if there are none.
 *
 * - `types`: the text of the types
 * - `bound`: for each file, for each name, the code that binds it
 * - `leftOut`: for each name that is not bound, why; what is inside of it is left out with it
 * - `read`: the text of a file of ours
 */
export function problems({ types, bound, leftOut, read }) {
  const found = [];
  const all = new Set(names(types, isWorkflows));
  const places = new Map();
  for (const [file, entries] of Object.entries(bound)) {
    const code = normalize(read(file));
    for (const [name, text] of Object.entries(entries)) {
      if (places.has(name)) found.push(`${name} is bound twice in the table, in ${places.get(name)} and in ${file}`);
      places.set(name, file);
      if (!code.includes(normalize(text))) found.push(`${name} should be bound in cloudflare-workflows/src/${file} by: ${text}`);
    }
  }
  const isLeftOut = (name) => Object.keys(leftOut).some((out) => name === out || (name.startsWith(out) && /^[.=[]/.test(name.slice(out.length))));
  for (const name of all) {
    if (places.has(name) && isLeftOut(name)) found.push(`${name} is bound, and left out too`);
    if (!places.has(name) && !isLeftOut(name)) found.push(`${name} is neither bound nor left out on purpose`);
  }
  for (const name of [...places.keys(), ...Object.keys(leftOut)]) {
    if (!all.has(name)) found.push(`${name} is not in the types (any more)`);
  }
  for (const [name, why] of Object.entries(leftOut)) {
    if (!why?.trim()) found.push(`${name} is left out without a reason`);
  }
  return { names: all.size, bound: places.size, problems: found };
}

/** Rust code without comments, attributes of documentation, and differences of layout. */
function normalize(code) {
  return code
    .replace(/\/\/[^\n]*/g, "")
    .replace(/\s+/g, " ")
    .trim();
}
