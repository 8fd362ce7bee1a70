// Ports for servers that have to be told theirs, or that come back at the same one.
import net from "node:net";

// The system hands out ports from 32,768 on to those who ask for any, and to every outgoing connection. What is below it keeps: a port
// from there is still free when its server starts, or starts again. Each process looks in a range of its own.
const FIRST = 20_000;
const RANGES = 600;
const RANGE = 20;
let tried = 0;

/** Returns a port that nothing listens on, and that the system gives to nobody. */
export async function freePort() {
  for (let tries = 0; tries < RANGES * RANGE; tries += 1) {
    // A range that is used up goes on into the next ones.
    const port = FIRST + (((process.pid % RANGES) * RANGE + tried) % (RANGES * RANGE));
    tried += 1;
    if (await isFree(port)) return port;
  }
  throw new Error("no port is free");
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}
