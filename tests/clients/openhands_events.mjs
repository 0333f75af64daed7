// The client of @openhands/typescript-client as it is released. It takes the page's
// WebSocket, so it is given one as pages have it.
//
// Argument: {"host", "conversation", "key"} as JSON. Input: a JSON line {"stop": true}.
// Output: a JSON line for everything that happens.

import { createInterface } from "node:readline";
import WebSocket from "ws";

const { host, conversation, key } = JSON.parse(process.argv[2]);
const say = (happened) => process.stdout.write(`${JSON.stringify(happened)}\n`);

class Watched extends WebSocket {
  constructor(url) {
    super(url);
    this.on("open", () => say({ happened: "open" }));
    this.on("close", (code, reason) =>
      say({ happened: "close", code, reason: reason.toString() }),
    );
  }
}

globalThis.window = { WebSocket: Watched };
const { WebSocketCallbackClient } = await import("@openhands/typescript-client");

const client = new WebSocketCallbackClient({
  host,
  conversationId: conversation,
  apiKey: key ?? undefined,
  callback: (event) => say({ happened: "event", event }),
  onError: (error) => say({ happened: "error", message: error.message }),
});
client.start();

createInterface({ input: process.stdin }).on("line", () => {
  client.stop();
  process.stdin.unref();
});
