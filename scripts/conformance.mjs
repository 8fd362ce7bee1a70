// npm run conformance [-- [--save] NAME...]: the suite for any SSE server (ssetarget-conformance) against this
// library's servers, and those that one can compare with. Writes docs/conformance.md, if no names are given or with
// --save, and prints it. What a server gave is kept in target/conformance, so that with --save those that are not named
// have their results of before.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { Failure, at, main, run } from "./lib/run.mjs";
import { buildWorker } from "./lib/build.mjs";
import { ensureNodeModules, ensureRust } from "./lib/setup.mjs";
import { buildContestants } from "../bench/lib/contestants.mjs";
import { Storage, serve as serveContestant } from "../bench/lib/workerd.mjs";
import { serveAxum } from "../tests/e2e/lib/axum.mjs";
import { serve as serveDemo } from "../tests/e2e/lib/demo.mjs";
import { startRedis } from "../tests/e2e/lib/redis.mjs";

const ORIGIN = "https://listed.example";
const PROFILES = "ssetarget-conformance/profiles";
const KEPT = "target/conformance";

const worker = (name, profile) => ({
  profile,
  async start() {
    await buildContestants([name]);
    const storage = new Storage();
    const server = await serveContestant(name, storage);
    return { url: `http://127.0.0.1:${server.port}`, stop: () => server.stop().then(() => storage.delete()) };
  },
});

const axum = (env) => ({
  profile: "axum.json",
  async start() {
    await cargo(["build", "-p", "ssetarget-axum-example"]);
    const server = await serveAxum({ ALLOWED_ORIGINS: ORIGIN, ...env });
    return { url: server.url, stop: () => server.kill() };
  },
});

const redis = {
  profile: "axum.json",
  async start() {
    if (spawnSync("redis-server", ["--version"]).status !== 0) return null;
    await cargo(["build", "-p", "ssetarget-axum-example"]);
    const store = await startRedis();
    const server = await serveAxum({ ALLOWED_ORIGINS: ORIGIN, REDIS_URL: store.url });
    return { url: server.url, stop: () => server.kill().then(() => store.stop()) };
  },
};

const demo = {
  profile: "demo.json",
  async start() {
    await buildWorker("demo");
    return serveDemo();
  },
};

const plainAxum = {
  profile: "plain.json",
  async start() {
    await cargo(["build", "-p", "ssetarget-conformance", "--example", "plain_axum"]);
    const child = spawn(`${process.env.CARGO_TARGET_DIR ?? at("target")}/debug/examples/plain_axum`, { stdio: ["ignore", "pipe", "inherit"] });
    process.once("exit", () => child.kill());
    const url = await new Promise((resolve, reject) => {
      child.once("error", reject);
      child.stdout.setEncoding("utf8").on("data", (text) => resolve(text.match(/http:\S+/)[0]));
    });
    return { url, stop: async () => child.kill() };
  },
};

/** In the order of the table. */
const SERVERS = {
  workers: { title: "ssetarget, Workers", ...worker("ours", "bench.json") },
  hibernating: { title: "ssetarget, Workers, hibernating", ...worker("ours-hibernating", "bench.json") },
  demo: { title: "ssetarget, the demo Worker", ...demo },
  memory: { title: "ssetarget, axum, memory", ...axum({ DATA_DIR: ":memory:" }) },
  sqlite: { title: "ssetarget, axum, SQLite", ...axum({}) },
  redis: { title: "ssetarget, axum, Redis", ...redis },
  original: { title: "@oselvar/ssetarget 4.0.5", ...worker("original-4", "bench-peer.json") },
  roofline: { title: "the roofline of bench/", ...worker("roofline", "bench-peer.json") },
  axum: { title: "axum's `Sse`", ...plainAxum },
  hono: { title: "hono's `streamSSE`", ...worker("hono", "plain.json") },
};

main(async () => {
  const args = process.argv.slice(2);
  const names = args.filter((arg) => arg !== "--save");
  const saves = names.length === 0 || names.length < args.length;
  const unknown = names.find((name) => !(name in SERVERS));
  if (unknown) throw new Failure(`there is no server called ${unknown}; choose ${Object.keys(SERVERS).join(", ")}.`);
  await ensureRust();
  await ensureNodeModules();
  await cargo(["build", "-p", "ssetarget-conformance"]);

  mkdirSync(at(KEPT), { recursive: true });
  for (const name of names.length > 0 ? names : Object.keys(SERVERS)) {
    const { title, profile, start } = SERVERS[name];
    console.log(`── ${title}`);
    const server = await start();
    if (!server) {
      console.log("left out: its server is not installed");
      continue;
    }
    try {
      const cases = await check(server.url, profile);
      writeFileSync(at(KEPT, `${name}.json`), JSON.stringify(cases));
      for (const { id, level, outcome, expected, got } of cases) {
        if (outcome === "failed") console.log(`✖ ${level} ${id}\n    expected: ${expected}\n    got:      ${got}`);
      }
    } finally {
      await server.stop();
    }
  }
  const kept = Object.keys(SERVERS).filter((name) => (saves || names.includes(name)) && existsSync(at(KEPT, `${name}.json`)));
  const results = kept.map((name) => ({ title: SERVERS[name].title, cases: JSON.parse(readFileSync(at(KEPT, `${name}.json`), "utf8")) }));
  const text = page(results);
  console.log(`\n${text}`);
  if (saves) writeFileSync(at("docs/conformance.md"), text);
  process.exit(0); // whatever a server has left open
});

async function check(url, profile) {
  const program = `${process.env.CARGO_TARGET_DIR ?? at("target")}/debug/ssetarget-conformance`;
  const child = spawn(program, ["--json", "--profile", at(PROFILES, profile), url], { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text) => (output += text));
  const code = await new Promise((resolve, reject) => child.once("error", reject).once("close", resolve));
  // 1 means that a case failed, which is a result here.
  if (code > 1) throw new Failure(`ssetarget-conformance ended with ${code}.`);
  return JSON.parse(output).cases;
}

async function cargo(args) {
  const { ok } = await run(`cargo ${args[0]}`, "cargo", args, { quiet: true });
  if (!ok) throw new Failure(`cargo ${args.join(" ")} failed.`);
}

const LEVELS = ["must", "should", "extension"];
const MARKS = { passed: "✔", failed: "✖", skipped: "–" };

function page(results) {
  const count = (cases, level, outcome) => cases.filter((one) => one.level === level && one.outcome === outcome).length;
  const totals = results.map(({ title, cases }) => {
    const cells = LEVELS.map((level) => {
      const [passed, failed, skipped] = ["passed", "failed", "skipped"].map((outcome) => count(cases, level, outcome));
      return `${passed} of ${passed + failed}${skipped ? ` (${skipped} not tried)` : ""}`;
    });
    return `| ${title} | ${cells.join(" | ")} |`;
  });
  const all = results[0].cases;
  const rows = all.map(({ id, title, source, level }) => {
    const marks = results.map(({ cases }) => MARKS[cases.find((one) => one.id === id)?.outcome ?? "skipped"]);
    return `| \`${id}\` | ${title} | ${source} | ${level} | ${marks.join(" | ")} |`;
  });
  const failures = results.flatMap(({ title, cases }) =>
    cases
      .filter(({ outcome }) => outcome === "failed")
      .map(({ id, expected, got }) => `- ${title}, \`${id}\`: expected ${inline(expected)}; got ${inline(got)}`),
  );
  const left = Object.values(SERVERS).filter((server) => !results.some(({ title }) => title === server.title)).map(({ title }) => title);
  const numbers = results.map((_, index) => `${index + 1}`);
  return `# Conformance

The results of \`npm run conformance\`: the ${all.length} cases of [ssetarget-conformance](../ssetarget-conformance/README.md), a
suite for any server of Server-Sent Events, run against servers of this library and others. The command writes this page.

| server | must | should | extensions that it claims |
|---|---|---|---|
${totals.join("\n")}

A case is "not tried" if the server has no way to be asked for it: data of the client's choice, an end, an extension that
it does not claim. Only the demo has a proxy in front, that of \`wrangler dev\`. axum's \`Sse\` and hono's \`streamSSE\` write
a stream and leave the log to their user; here they have none, as in their documentation. The roofline is the benchmark's,
made for speed alone. Only this library was changed until it passed.
${left.length > 0 ? `\nNot run, and so not in this table: ${left.join("; ")}.\n` : ""}
## What failed

${failures.length > 0 ? failures.join("\n") : "Nothing."}

## Every case

${results.map(({ title }, index) => `${index + 1}: ${title}`).join(" · ")}

✔ passed, ✖ failed, – not tried

| case | what the server does | source | level | ${numbers.join(" | ")} |
|---|---|---|---|${numbers.map(() => "---|").join("")}
${rows.join("\n")}
`;
}

/** Text of a server as code, in a line of Markdown. */
function inline(text) {
  const short = text.length > 160 ? `${text.slice(0, 160)}…` : text;
  return `\`${short.replaceAll("`", "'").replaceAll("\n", " ")}\``;
}
