// Every name of the Workflows API in Cloudflare's types is bound, or left out for a stated reason.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import { isWorkflows, problems } from "../../scripts/lib/coverage.mjs";
import { at } from "../../scripts/lib/run.mjs";
import { names } from "../../scripts/lib/types.mjs";
import { BOUND } from "../types/bound.mjs";
import { LEFT_OUT } from "../types/left-out.mjs";

const types = readFileSync(at("node_modules/@cloudflare/workers-types/index.d.ts"), "utf8");
const read = (files) => files.split(" ").map((file) => readFileSync(at(`cloudflare-workflows/src/${file}`), "utf8")).join("\n");
const check = (changes = {}) => problems({ types, bound: BOUND, leftOut: LEFT_OUT, read, ...changes });

test("every name is bound, or left out on purpose", (context) => {
  const result = check();
  assert.deepEqual(result.problems, []);
  assert.ok(result.names > 300, `${result.names} names`);
  context.diagnostic(`${result.names} names in the types, ${result.bound} bound, left out:`);
  for (const [name, why] of Object.entries(LEFT_OUT)) context.diagnostic(`${name}: ${why}`);
});

describe("the check finds", () => {
  test("a name that the table lost", () => {
    const file = "worker/workflow.rs worker/instance.rs worker/error.rs";
    const { "Workflow.createBatch": lost, ...rest } = BOUND[file];
    assert.ok(lost);
    assert.deepEqual(check({ bound: { ...BOUND, [file]: rest } }).problems, ["Workflow.createBatch is neither bound nor left out on purpose"]);
  });

  test("every name of the table that our sources lose", () => {
    for (const [file, entries] of Object.entries(BOUND)) {
      const gone = check({ read: (each) => (each === file ? "" : read(each)) }).problems;
      assert.deepEqual(gone, Object.entries(entries).map(([name, code]) => `${name} should be bound in cloudflare-workflows/src/${file} by: ${code}`));
    }
  });

  test("a method, an option and a variant that the platform adds", () => {
    const added = types
      .replace("public pause(): Promise<void>;", "$& public rewind(steps: number): Promise<void>;")
      .replace("type WorkflowInstanceLocationHint =", '$& "moon" |')
      .replace('type: "workflow_paused";', "$& } | { type: \"workflow_frozen\"; until: number;")
      .replace("successRetention?: WorkflowRetentionDuration;", "$& legalHold?: { by: string };");
    assert.deepEqual(check({ types: added }).problems.sort(), [
      "WorkflowBatchCreateOptions.retention.legalHold is neither bound nor left out on purpose",
      "WorkflowBatchCreateOptions.retention.legalHold.by is neither bound nor left out on purpose",
      "WorkflowInstance.rewind is neither bound nor left out on purpose",
      "WorkflowInstance.rewind.steps is neither bound nor left out on purpose",
      "WorkflowInstanceEvent[workflow_frozen] is neither bound nor left out on purpose",
      "WorkflowInstanceEvent[workflow_frozen].until is neither bound nor left out on purpose",
      'WorkflowInstanceLocationHint="moon" is neither bound nor left out on purpose',
    ]);
  });

  test("a name that the platform takes away", () => {
    const less = types.replace(/public deleteBatch\([^)]*\)[^;]*;/, "");
    assert.deepEqual(check({ types: less }).problems, ["Workflow.deleteBatch is not in the types (any more)", "Workflow.deleteBatch.instanceIds is not in the types (any more)"]);
  });

  test("a name without a reason to be left out", () => {
    assert.deepEqual(check({ leftOut: { ...LEFT_OUT, "WorkflowError.code": " " } }).problems, ["WorkflowError.code is left out without a reason"]);
  });
});

test("the types are read as they are written", () => {
  const source = `
    /** type Not = { this: 1 } */
    export type Wanted<T = string> = { a?: Readonly<T>; b: { c: "x" | "y" }; readonly type: string } & Omit<Other, "d">; // type Nor = { this: 1 }
    type Tagged = | { type: "one" } | { type: "two"; more: { deep: number }[] };
    declare abstract class Wide extends Base<Other> {
      private constructor(first: number, second?: { third: "z" });
      public method<T extends Thing<T>>({ e, f }: { e: string; f(g: number): void }): Promise<Wanted>;
      arrow: (h: string) => Promise<void>;
    }
    interface Other { i: 1 }
    type After = "end";`;
  assert.deepEqual(names(source, (name) => name !== "Other"), [
    "After",
    'After="end"',
    "Tagged",
    "Tagged[one]",
    "Tagged[two]",
    "Tagged[two].more",
    "Tagged[two].more.deep",
    "Wanted",
    "Wanted.a",
    "Wanted.b",
    "Wanted.b.c",
    'Wanted.b.c="x"',
    'Wanted.b.c="y"',
    "Wanted.type",
    'Wanted="d"',
    "Wide",
    "Wide.arrow",
    "Wide.arrow.h",
    "Wide.constructor",
    "Wide.constructor.first",
    "Wide.constructor.second",
    "Wide.constructor.second.third",
    'Wide.constructor.second.third="z"',
    "Wide.method",
    "Wide.method.e",
    "Wide.method.f",
    "Wide.method.f.g",
  ]);
  assert.ok(isWorkflows("WorkflowStep") && isWorkflows("InstanceStatus") && !isWorkflows("Worker"));
});
