// A relay of connections that can cut them off, for clients whose server has to have one address.
import net from "node:net";

/** Hands every connection on to where `target` says, byte by byte. */
export async function relayTo(target) {
  const sockets = new Set();
  const server = net.createServer((socket) => {
    const other = net.connect(Number(new URL(target()).port), "127.0.0.1");
    for (const end of [socket, other]) {
      sockets.add(end);
      end.on("error", () => {});
      end.on("close", () => {
        sockets.delete(end);
        socket.destroy();
        other.destroy();
      });
    }
    socket.pipe(other).pipe(socket);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const cut = () => sockets.forEach((socket) => socket.destroy());
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cut,
    async close() {
      cut();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
