// How a page uses the types: the state first, then the events after it. Checked by `npm test --
// lint`.
import type { EventMap, RunEvent, RunSnapshot, TaskView } from "./types";

/** Shows a run: its snapshot, and each event after it. */
export async function watch(run: string, show: (line: string) => void): Promise<EventSource> {
  const response = await fetch(run, { headers: { accept: "application/json" } });
  const snapshot = (await response.json()) as RunSnapshot;
  for (const task of flat(snapshot.tasks)) show(`${task.taskId}: ${task.state} ${task.percent ?? ""}`);

  const events = new EventSource(snapshot.cursor === undefined ? `${run}/sse` : `${run}/sse?lastEventId=${snapshot.cursor}`);
  const on = <Type extends keyof EventMap>(type: Type) => {
    events.addEventListener(type, (event) => {
      show(describe({ type, data: JSON.parse((event as MessageEvent<string>).data) } as RunEvent));
    });
  };
  on("started");
  on("attempt_failed");
  on("progress");
  on("completed");
  on("failed");
  on("restarted");
  on("reset");
  on("expired");
  return events;
}

function* flat(tasks: TaskView[]): Generator<TaskView> {
  for (const task of tasks) {
    yield task;
    yield* flat(task.tasks ?? []);
  }
}

function describe(event: RunEvent): string {
  switch (event.type) {
    case "started":
      return `${event.data.taskId} begins${event.data.eventType === undefined ? "" : `, and waits for ${event.data.eventType}`}`;
    case "attempt_failed":
      return `attempt ${event.data.attempt.toFixed()} failed: ${event.data.error}, again at ${event.data.retryAt ?? "no time"}`;
    case "progress":
      return `${event.data.percent ?? 0} % ${event.data.message ?? ""}`;
    case "completed":
    case "failed":
      return event.data.parentId === null ? `the run has ended: ${event.type}` : `${event.data.step} has ended`;
    case "restarted":
      return `run ${event.data.run} begins`;
    case "reset":
      return `the log begins at ${event.data.oldest ?? "no event"}`;
    case "expired":
      return event.data.renew ? "log in again" : "the link has expired";
    default: {
      const never: never = event;
      return never;
    }
  }
}
