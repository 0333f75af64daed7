// A page of OpenHands V0 with socket.io-client as it is installed. Like the page it
// remembers the number of the last event and asks for what follows when the library
// comes back by itself.
//
// Argument: {"url", "query", "options"} as JSON. Input: a JSON line {"emit": [...],
// "ack": bool} or {"connect": true} or {"close": true}. Output: a JSON line for
// everything that happens.

import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const { url, query, options } = JSON.parse(process.argv[2]);
const say = (happened) => process.stdout.write(`${JSON.stringify(happened)}\n`);

const socket = io(url, {
  path: "/socket.io",
  transports: ["websocket"],
  reconnectionDelay: 100,
  query,
  ...options,
});

let latest = null;

socket.on("oh_event", (event) => {
  if (typeof event.id === "number") latest = event.id;
  say({ happened: "oh_event", event });
});
socket.on("connect", () => say({ happened: "connect" }));
socket.on("connect_error", (error) =>
  say({
    happened: "connect_error",
    message: error.message,
    data: error.data ?? null,
    active: socket.active,
  }),
);
socket.on("disconnect", (reason) => {
  if (latest !== null) socket.io.opts.query.latest_event_id = latest;
  say({ happened: "disconnect", reason, active: socket.active });
});
socket.io.on("ping", () => say({ happened: "ping" }));

createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  if (command.emit && command.ack) {
    socket.emit(...command.emit, (...answer) => say({ happened: "ack", answer }));
  } else if (command.emit) {
    socket.emit(...command.emit);
  } else if (command.connect) {
    socket.connect();
  } else if (command.close) {
    socket.disconnect();
    process.stdin.unref();
  }
});
