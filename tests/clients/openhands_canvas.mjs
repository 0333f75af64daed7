// A page of OpenHands with the hook that its current interface uses, as it is released,
// in React and jsdom.
//
// Argument: {"canvas", "page", "conversation", "key", "query"} as JSON: where the
// released files are, the page's own URL, the conversation's id, a key or null, and the
// parameters of the URL. Input: a JSON line {"send": text} or {"disconnect": true}.
// Output: a JSON line for everything that happens.

import { createInterface } from "node:readline";
import { JSDOM } from "jsdom";

const { canvas, page, conversation, key, query } = JSON.parse(process.argv[2]);
const say = (happened) => process.stdout.write(`${JSON.stringify(happened)}\n`);

const { window } = new JSDOM("<!doctype html>", { url: page });
globalThis.window = window;
globalThis.document = window.document;
globalThis.navigator ??= window.navigator;
globalThis.WebSocket = window.WebSocket;

const { renderHook } = await import("@testing-library/react");
const { useWebSocket } = await import(`${canvas}/dist/hooks/use-websocket.js`);
const { buildWebSocketUrl } = await import(`${canvas}/dist/utils/websocket-url.js`);

const url = buildWebSocketUrl(conversation, `${page}/api/conversations/${conversation}`);
const options = {
  queryParams: query,
  sessionApiKey: key,
  reconnect: { enabled: true },
  onOpen: () => say({ happened: "open" }),
  onMessage: ({ data }) => say({ happened: "event", event: JSON.parse(data) }),
  onClose: ({ code, reason }) => say({ happened: "close", code, reason }),
};
const { result } = renderHook(() => useWebSocket(url, options));

createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  if (command.send) result.current.sendMessage(command.send);
  else if (command.disconnect) result.current.disconnect();
});
