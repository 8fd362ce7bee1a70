// Compiles the examples in the docs.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { at } from "./run.mjs";

/** Writes each example into a file of its own, beside the module, as a project has it. Returns the arguments for `tsc`. */
export function typescriptExamples() {
  const folder = at("target/typescript-docs");
  rmSync(folder, { recursive: true, force: true });
  const installed = path.join(folder, "node_modules/ssetarget-watch");
  mkdirSync(installed, { recursive: true });
  for (const name of ["package.json", "types.d.ts", "watch.d.ts", "watch.js"]) cpSync(at("typescript", name), path.join(installed, name));
  writeFileSync(path.join(folder, "package.json"), '{ "type": "module" }\n');
  const blocks = ["docs/typescript.md", "docs/durable-streams.md"].flatMap((file) => [...readFileSync(at(file), "utf8").matchAll(/^```(tsx?)\n(.*?)^```$/gms)]);
  const files = blocks.map(([, ending, source], index) => {
    const file = path.join(folder, `example-${index + 1}.${ending}`);
    writeFileSync(file, `${source}\nexport {};\n`);
    return file;
  });
  const options = {
    compilerOptions: {
      noEmit: true,
      strict: true,
      exactOptionalPropertyTypes: true,
      noUnusedLocals: true,
      target: "es2022",
      module: "nodenext",
      lib: ["es2022", "dom", "dom.asynciterable"],
      jsx: "preserve",
      types: ["react"],
      typeRoots: [at("node_modules/@types")],
    },
    files: [...files, path.join(installed, "watch.d.ts")],
  };
  const config = path.join(folder, "tsconfig.json");
  writeFileSync(config, JSON.stringify(options, null, 2));
  return ["--project", config];
}
