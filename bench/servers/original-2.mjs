// The original, 2.x, as its README shows: its object, its `serveSSE`, one RPC call per dispatch.
import { WorkflowEvents } from "oselvar-ssetarget-2/workflows/cloudflare";
import { serveSSE } from "oselvar-ssetarget-2/workflows/cloudflare/sse";
import { NOTE, TIMESTAMP, UUID, contestant } from "./driver.mjs";

export { WorkflowEvents };

export default contestant({
  sse: (id, request, env) => serveSSE(id, request, env.EVENTS),
  log(id, env) {
    const object = env.EVENTS.get(env.EVENTS.idFromName(id));
    return (events) => object.dispatchEvent(events.length === 1 ? events[0] : events);
  },
  // Its columns are fixed, so the name is what is made longer. `error` is there because SQLite takes no undefined.
  event: (number) => ({ type: "started", taskId: UUID, step: `step #${number} ${NOTE}${NOTE}${NOTE}`, timestamp: TIMESTAMP, error: null }),
});
