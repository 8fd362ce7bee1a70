// The original, 4.x, as its README shows: its object, its `serveSSE`, one RPC call per dispatch.
import { WorkflowEvents } from "@oselvar/ssetarget/workflows/cloudflare";
import { serveSSE } from "@oselvar/ssetarget/workflows/cloudflare/sse";
import { NOTE, TIMESTAMP, UUID, contestant } from "./driver.mjs";

export { WorkflowEvents };

export default contestant({
  sse: (id, request, env) => serveSSE(id, request, env.EVENTS),
  log(id, env) {
    const object = env.EVENTS.get(env.EVENTS.idFromName(id));
    return (events) => object.dispatchEvent(events.length === 1 ? events[0] : events);
  },
  event: (number) => ({
    type: "started",
    traceId: "bench",
    spanId: UUID,
    parentSpanId: "bench",
    name: `step #${number}`,
    attributes: { note: NOTE },
    timestamp: TIMESTAMP,
  }),
});
