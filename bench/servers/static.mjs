// No object and no log: pages from memory, to show the limits of the runtime and the client.
import { NOTE, TIMESTAMP } from "./driver.mjs";

const UTF8 = new TextEncoder();
const PAGE_EVENTS = 300;

let pages = [];

export default {
  fetch(request) {
    const events = Number(new URL(request.url).searchParams.get("events") ?? 100_000);
    if (pages.length !== Math.ceil(events / PAGE_EVENTS)) pages = [...encode(events)];
    const { readable, writable } = new IdentityTransformStream();
    pump(writable.getWriter()).catch(() => {}); // the viewer has gone
    return new Response(readable, { headers: { "content-type": "text/event-stream" } });
  },
};

async function pump(writer) {
  for (const page of pages) await writer.write(page);
  await writer.close();
}

function* encode(events) {
  for (let after = 0; after < events; after += PAGE_EVENTS) {
    let page = "";
    for (let number = after + 1; number <= Math.min(after + PAGE_EVENTS, events); number += 1) {
      page += `id: ${number}\nevent: started\ndata: {"taskId":"step #${number}-1","step":"step #${number}","kind":"do","count":1,"timestamp":"${TIMESTAMP}","parentId":"workflow:bench-1","attempt":1,"attributes":{"note":"${NOTE}"}}\n\n`;
    }
    yield UTF8.encode(page);
  }
}
