// From trials to medians, a table, plots, and the block of docs/measured.md.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Failure, at } from "../../scripts/lib/run.mjs";
import { contestant } from "./contestants.mjs";
import { barChart } from "./chart.mjs";
import { CAP_MS, GZIP_AT_MOST, SCENARIOS } from "./scenarios.mjs";

const BASE = "original-4";
const BEST = "roofline";
const OURS = "ours";
const MEASURED = "docs/measured.md";

/**
 * Writes `results.json`, `results.md` and the plots into a folder. With `apart` the results are of some scenarios only: those of
 * the others stay, and these say when they were measured.
 */
export function saveResults(measured, folder, { apart = false } = {}) {
  mkdirSync(folder, { recursive: true });
  const before = path.join(folder, "results.json");
  const results = apart && existsSync(before) ? joined(JSON.parse(readFileSync(before, "utf8")), measured) : measured;
  writeFileSync(path.join(folder, "results.json"), `${JSON.stringify(results, null, 1)}\n`);
  const plots = charts(results);
  for (const { file, svg } of plots) writeFileSync(path.join(folder, file), svg);
  writeFileSync(path.join(folder, "results.md"), markdown(results, plots));
  console.log(`\nWritten: ${path.relative(at("."), folder)}/results.md, results.json${plots.map(({ file }) => `, ${file}`).join("")}`);
}

/** Results with these in place of those of the same scenarios, in the order of the scenarios. */
function joined(before, { started, load, loadAfter, commit, trials, scenarios }) {
  const apart = { started, load, loadAfter, commit, trials };
  const all = new Map(before.scenarios.map((scenario) => [scenario.name, scenario]));
  for (const scenario of scenarios) all.set(scenario.name, { ...scenario, apart });
  return { ...before, scenarios: SCENARIOS.flatMap(({ name }) => all.get(name) ?? []) };
}

export function printTable(results) {
  console.log(`\n${mainTable(results)}\n`);
}

/**
 * Puts the figures of `bench/results` between `<!-- bench -->` and `<!-- /bench -->` of docs/measured.md, and the tables of the
 * native servers between `<!-- native -->` and `<!-- /native -->`.
 */
export function saveMeasured() {
  const file = at("bench/results/results.json");
  if (!existsSync(file)) throw new Failure("there are no results yet: `npm run bench -- --save` makes them.");
  const native = ["native.md", "native-instructions.md"].map((name) => at("bench/results", name)).filter((file) => existsSync(file));
  const blocks = {
    bench: measuredTable(JSON.parse(readFileSync(file, "utf8"))),
    native: native.map((file) => firstTable(readFileSync(file, "utf8"))).join("\n\n"),
  };
  let measured = readFileSync(at(MEASURED), "utf8");
  for (const [name, text] of Object.entries(blocks)) {
    const block = new RegExp(`(<!-- ${name} -->\\n)[\\s\\S]*?(<!-- /${name} -->)`);
    if (!block.test(measured)) throw new Failure(`${MEASURED} has no <!-- ${name} --> with a <!-- /${name} --> after it.`);
    measured = measured.replace(block, (_, begin, end) => `${begin}${text}\n${end}`);
  }
  writeFileSync(at(MEASURED), measured);
}

/** The first table of a text, and when it was made. */
function firstTable(text) {
  const day = text.match(/ at (\d{4}-\d{2}-\d{2})/)?.[1];
  return `${text.match(/(?:^\|.*\n)+/m)?.[0] ?? ""}\nMade on ${day}.`;
}

/** Every row of every scenario that was run: `{ scenario, row, cells: { contestant: { median, low, high, capped } } }`. */
function rows(results) {
  return results.scenarios.flatMap(({ name, trials }) => {
    const scenario = SCENARIOS.find((scenario) => scenario.name === name);
    return (scenario?.rows ?? []).map((row) => {
      const cells = Object.entries(trials).map(([contestant, reports]) => [contestant, cell(reports, row)]);
      return { scenario, row, cells: Object.fromEntries(cells) };
    });
  });
}

function cell(reports, { metric }) {
  const values = reports.map((report) => report[metric]).filter((value) => typeof value === "number");
  if (values.length === 0) return null;
  const lost = reports.some((report) => report.lost > 0 || report.stalled?.lost > 0);
  const some = (fault) => reports.some((report) => report[fault]);
  return { ...spread(values), capped: some("capped"), failed: some("failed"), lost };
}

function spread(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const median = (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2;
  return { median, low: sorted[0], high: sorted.at(-1) };
}

/** How many times better than another; for a `share`, which part of it. */
function ratio({ row, cells }, than, of = OURS) {
  const [a, b] = [cells[of]?.median, cells[than]?.median];
  if (a === undefined || b === undefined) return null;
  if (row.share || row.better === "higher") return b === 0 ? null : a / b;
  return a === 0 ? null : b / a;
}

function markdown(results, plots) {
  const { machine, versions, trials, load, loadAfter, compatibility } = results;
  return `# Results

Made by \`npm run bench -- --save\` at ${results.started}, commit ${results.commit}. Do not edit.

${machine}. Load when it began: ${load.join(", ")}; when it ended: ${loadAfter.join(", ")}${note(results)}.
${Object.entries(versions)
  .map(([name, version]) => `${name} ${version}`)
  .join(", ")}; compatibility date ${compatibility.date}. The objects' storage is ${results.storage}.

Medians of ${trials} trials in turns${fewer(results)}, with the least and the greatest. Each trial has a server of its own, just
started. Times better than the original 4.0.5, unless it is a share of it. \\* cut off after ${CAP_MS / 1000} s, so the
rate is that of this time. † it did not deliver everything. ‡ a trial broke down.

${mainTable(results)}
${apartTable(results)}
${plots.map(({ file, title }) => `## ${title}\n\n![${title}](${file})\n`).join("\n")}

## What was delivered

Over all trials: lost, twice, after a later one, with another event's data.

${deliveryTable(results)}

## CPU for each delivery, and memory

Of the workerd process, medians. An event, where nobody watches.

${costTable(results)}

## Size

${sizeTable(results)}

## The client

It takes a static stream, pages that are in the Worker's memory, from the same runtime at
${figure(results.client.perSecond)} events/s, of which its own processor time is ${figure(results.client.clientCpuMs)} ms in
${figure(results.client.seconds * 1000)} ms: it is not what limits a contestant.
`;
}

const note = ({ note }) => (note ? `. ${note}` : "");

/** The scenarios that had fewer trials than the others. */
function fewer({ trials, scenarios }) {
  const counts = scenarios.filter(({ apart }) => !apart).map(({ name, trials: of }) => ({ name, count: Math.max(...Object.values(of).map((reports) => reports.length)) }));
  const less = counts.filter(({ count }) => count < trials).map(({ name, count }) => `${name}: ${count}`);
  return less.length > 0 ? ` (${less.join(", ")})` : "";
}

/** The scenarios that were measured at another time than the rest. */
function apartTable({ scenarios }) {
  const lines = scenarios
    .filter(({ apart }) => apart)
    .map(({ name, apart: { started, load, loadAfter, commit, trials } }) => [
      name,
      started.slice(0, 16).replace("T", " "),
      trials,
      `${load.join(", ")}; ${loadAfter.join(", ")}`,
      commit,
    ]);
  if (lines.length === 0) return "";
  return `\nMeasured apart from the rest:\n\n${table(["scenario", "at (UTC)", "trials", "load before; after", "commit"], lines)}\n`;
}

function mainTable(results) {
  const names = results.contestants;
  const head = ["scenario", "", ...names.map((name) => contestant(name).title), "ours / original", "asked", "ours / roofline"];
  const lines = rows(results).map((line) => {
    const { scenario, row, cells } = line;
    return [
      scenario.title,
      `${row.title}, ${row.unit}`,
      ...names.map((name) => range(cells[name], row.unit)),
      times(ratio(line, BASE), row),
      asked(line),
      times(ratio(line, BEST), row),
    ];
  });
  return table(head, lines);
}

function asked(line) {
  const { atLeast, aim, aimsAtRoofline, atMost } = line.row;
  if (atMost) {
    const reached = line.cells[OURS]?.median;
    return `${atMost[0]} (${atMost[1]})${reached <= atMost[1] ? " ✔✔" : reached <= atMost[0] ? " ✔" : " ✖"}`;
  }
  if (!atLeast) return "";
  const reached = ratio(line, BASE);
  const holds = (target) => (line.row.share ? reached <= target : reached >= target);
  const aims = aimsAtRoofline ? ratio(line, BASE, BEST) : aim;
  const verdict = reached === null ? "" : aims && holds(aims) ? " ✔✔" : holds(atLeast) ? " ✔" : " ✖";
  return `${times(atLeast, line.row)}${aims ? ` (${times(aims, line.row)})` : ""}${verdict}`;
}

function measuredTable(results) {
  const picked = {
    "replay-100k-1": ["perSecond", "firstMs", "peakMemory"],
    resume: ["resumeMs"],
    "fan-out-10-1": ["perSecond"],
    "fan-out-100-1": ["perSecond"],
    "fan-out-500-1": ["perSecond"],
    "fan-out-100-100": ["perSecond"],
    latency: ["p50Ms"],
    "ingest-1": ["perSecond"],
    "ingest-100": ["perSecond"],
    stalled: ["perSecond"],
    "merge-replay-1": ["perSecond"],
    "merge-live-1": ["perSecond"],
    "merge-live-100": ["perSecond"],
    "index-reports-1": ["perSecond"],
    "index-reports-16": ["perSecond"],
    "index-list": ["answerMs"],
    "index-viewers-100": ["perSecond"],
    "index-viewers-500": ["perSecond"],
  };
  const lines = rows(results)
    .filter(({ scenario, row }) => picked[scenario.name]?.includes(row.metric))
    .map((line) => [
      `${line.scenario.title}: ${line.row.title}, ${line.row.unit}`,
      ...[BASE, BEST, OURS].map((name) => (line.cells[name] ? figure(inUnit(line.cells[name].median, line.row.unit)) : "–")),
      times(ratio(line, BASE), line.row) || "–",
      times(ratio(line, BEST), line.row),
    ]);
  const head = ["", contestant(BASE).title, "roofline", "this crate", "to the original", "to the roofline"];
  const day = results.started.slice(0, 10);
  return `${table(head, lines)}

"–": the original has no such thing. Medians of ${results.trials} trials on ${day}${apart(results)}, one workerd ${results.versions.workerd}, ${results.machine.split(",")[0]}. All
rows, ranges, memory and losses: [bench/results/results.md](../bench/results/results.md).`;
}

/** How many trials those scenarios had at least that were measured apart. */
function apart({ scenarios }) {
  const counts = scenarios.flatMap(({ apart }) => apart?.trials ?? []);
  return counts.length === 0 ? "" : ` (some rows apart from the rest, of ${Math.min(...counts)})`;
}

function deliveryTable(results) {
  const faults = ["lost", "duplicates", "disorder", "wrong"];
  const total = (reports, fault) => reports.reduce((sum, report) => sum + (report[fault] ?? 0) + (report.stalled?.[fault] ?? 0), 0);
  const lines = results.scenarios
    .filter(({ trials }) => Object.values(trials).some((reports) => reports.some((report) => "lost" in report)))
    .map(({ name, trials }) => [
      name,
      ...results.contestants.map((contestant) => {
        const reports = trials[contestant] ?? [];
        return reports.length === 0 ? "–" : faults.map((fault) => figure(total(reports, fault))).join(" · ");
      }),
    ]);
  return table(["scenario", ...results.contestants.map((name) => contestant(name).title)], lines);
}

function costTable(results) {
  const lines = results.scenarios.map(({ name, trials }) => [
    name,
    ...results.contestants.flatMap((contestant) => {
      const reports = trials[contestant] ?? [];
      if (reports.length === 0) return "–";
      const cpu = cell(reports, { metric: "cpuUsPerEvent" });
      const memory = cell(reports, { metric: "peakMemory" });
      return [`${cpu ? figure(cpu.median) : ""} µs, ${memory ? figure(memory.median / 1e6) : ""} MB`];
    }),
  ]);
  return table(["scenario", ...results.contestants.map((name) => contestant(name).title)], lines);
}

function sizeTable({ sizes, contestants }) {
  const kilobytes = (bytes) => `${figure(bytes / 1000)} KB`;
  const lines = contestants.map((name) => [contestant(name).title, kilobytes(sizes[name].bytes), kilobytes(sizes[name].gzip)]);
  const asked = sizes[OURS] && `Asked of ours: ${GZIP_AT_MOST / 1000} KB at most (150 KB), after gzip.`;
  return `Of the whole Worker, with the routes that drive it. ${asked ?? ""}\n\n${table(["", "wasm + JS", "gzip"], lines)}`;
}

function charts(results) {
  const all = rows(results).filter(({ cells }) => cells[BASE] && cells[OURS]);
  const compared = results.contestants.filter((name) => [BASE, BEST, OURS].includes(name));
  const series = compared.map((name) => contestant(name).title);
  const bars = (lines) =>
    lines.map(({ scenario, row, cells }) => ({
      label: lines.every((line) => line.row.title === row.title) ? scenario.title : `${scenario.title}: ${row.title}`,
      values: compared.map((name) => cells[name] && scaled(cells[name], row.unit)),
    }));
  const plots = [
    { file: "delivery.svg", title: "Delivery: events a second", lines: all.filter(({ row }) => row.metric === "perSecond") },
    { file: "time.svg", title: "Time: milliseconds", lines: all.filter(({ row }) => row.unit === "ms") },
    {
      file: "memory.svg",
      title: "Memory: MB",
      lines: all.filter(({ row }) => row.unit === "MB"),
    },
  ];
  return plots
    .filter(({ lines }) => lines.length > 0)
    .map(({ file, title, lines }) => ({ file, title, svg: barChart({ title, series, bars: bars(lines) }) }));
}

function scaled({ median, low, high }, unit) {
  return { median: inUnit(median, unit), low: inUnit(low, unit), high: inUnit(high, unit) };
}

/** Bytes are reported as MB or KB. */
function inUnit(value, unit) {
  return value / ({ MB: 1e6, KB: 1e3 }[unit] ?? 1);
}

function range(cell, unit) {
  if (!cell) return "–";
  const { median, low, high } = scaled(cell, unit);
  const spread = low === high ? "" : ` (${figure(low)}–${figure(high)})`;
  return `${figure(median)}${spread}${cell.capped ? " \\*" : ""}${cell.failed ? " ‡" : ""}${cell.lost ? " †" : ""}`;
}

function times(ratio, { share }) {
  if (ratio === null) return "";
  const text = ratio >= 100 ? ratio.toFixed(0) : ratio >= 10 ? ratio.toFixed(1) : ratio.toFixed(2);
  return share ? text : `${text} x`;
}

/** Three figures, thousands set off. */
function figure(value) {
  if (value === null || value === undefined) return "–";
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  const rounded = Number(value.toPrecision(3));
  return rounded.toLocaleString("en", { maximumFractionDigits: Number.isInteger(value) ? 0 : digits });
}

function table(head, lines) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map((_, index) => (index === 0 ? "---" : "---:"))), ...lines.map(line)].join("\n");
}
