import assert from "node:assert/strict";
import { test } from "node:test";

import { World, closing, event, gap, ids, settle, states } from "./fakes.mjs";

const last = (told) => told.state.at(-1);

async function failSocket(world) {
  world.socket.end(1006);
  await world.clock.advance(30_000);
}

test("when two WebSockets have failed before any was open, the event stream is tried", async () => {
  const world = new World();
  world.luck = 0;
  const { client, told } = await world.start();
  world.socket.end();
  await world.clock.advance(0);
  world.socket.end();
  await world.clock.advance(0);
  assert.equal(world.sockets.length, 2);
  world.response.greet();
  await settle();
  assert.equal(client.transport, "sse");
  assert.equal(last(told).state, "open");
});

test("how many failures it takes is an option", async () => {
  const world = new World();
  world.luck = 0;
  await world.start({ fallbackAfter: 1 });
  world.socket.end();
  await world.clock.advance(0);
  assert.deepEqual([world.sockets.length, world.responses.length], [1, 1]);
});

test("what was to be sent is refused when it turns out that nothing can be", async () => {
  const world = new World();
  world.luck = 0;
  const { client } = await world.start({ fallbackAfter: 1 });
  const answer = client.send("x");
  answer.catch(() => {});
  world.socket.end();
  await world.clock.advance(0);
  world.response.greet();
  await assert.rejects(answer, { code: "no_upstream" });
});

test("once a WebSocket was open there is no falling back", async () => {
  const world = new World();
  world.luck = 0;
  await world.open();
  for (const _ of [1, 2, 3, 4]) {
    world.socket.end();
    await world.clock.advance(0);
  }
  assert.deepEqual([world.sockets.length, world.responses.length], [5, 0]);
});

test("a refusal by the broker proves that WebSockets get through", async () => {
  const world = new World();
  world.luck = 0;
  await world.start({ fallbackAfter: 1 });
  world.socket.say(closing({ code: 4004, reason: "overloaded", retry: true }));
  world.socket.end(4004);
  await world.clock.advance(0);
  assert.equal(world.responses.length, 0);
});

test("a proxy that takes the upgrade and then swallows everything counts as a failure", async () => {
  const world = new World();
  await world.start({ fallbackAfter: 1 });
  await world.clock.advance(10_000);
  await world.clock.advance(250);
  assert.equal(world.responses.length, 1);
});

test("when both fail, the broker may be down: it begins with the WebSocket again", async () => {
  const world = new World();
  world.luck = 0;
  await world.start();
  world.socket.end();
  await world.clock.advance(0);
  world.socket.end();
  await world.clock.advance(0);
  world.response.fail();
  await world.clock.advance(0);
  assert.deepEqual([world.sockets.length, world.responses.length], [3, 1]);
});

test("when an event stream ends, one WebSocket is tried before the next", async () => {
  const world = new World();
  world.luck = 0;
  await world.start({ fallbackAfter: 1 });
  world.socket.end();
  await world.clock.advance(0);
  world.response.greet();
  await settle();
  world.response.end();
  await world.clock.advance(0);
  assert.deepEqual([world.sockets.length, world.responses.length], [2, 1]);
  world.socket.end();
  await world.clock.advance(0);
  assert.deepEqual([world.sockets.length, world.responses.length], [2, 2]);
});

/** A client that has fallen back, and the WebSocket that it tries beside. */
async function fallBack(world, options = {}) {
  world.luck = 0;
  const started = await world.start({ fallbackAfter: 1, ...options });
  world.socket.end();
  await world.clock.advance(0);
  world.response.greet();
  await settle();
  return started;
}

test("a WebSocket is tried once more beside a stream: the broker may have been away before", async () => {
  const world = new World();
  const { client, told } = await fallBack(world);
  world.response.say(event("6-0@6"));
  await world.clock.advance(9999);
  assert.equal(world.sockets.length, 1);
  await world.clock.advance(1);
  assert.equal(world.socket.url.searchParams.get("last_event_id"), "6-0@6");
  world.response.say(event("7-0@7"));
  await settle();
  world.socket.greet({ resume: "complete" });
  world.socket.say(event("7-0@7"));
  world.socket.say(event("8-0@8"));
  assert.deepEqual(ids(told.event), ["6-0@6", "7-0@7", "8-0@8"]);
  assert.equal(client.transport, "websocket");
  assert.equal(client.canPause, false);
  assert.deepEqual(states(told).slice(-2), ["open", "open"]);
  assert.equal(world.response.isAborted, true);
  client.send("x");
  assert.equal(world.socket.sent[0].cmd, "x");
});

test("a gap of the stream that is told again by the WebSocket is replaced", async () => {
  const world = new World();
  const { told } = await fallBack(world);
  world.response.say(gap());
  await world.clock.advance(10_000);
  world.socket.greet({ resume: "gap" });
  world.socket.say(gap());
  assert.deepEqual(
    told.gap.map(({ replaces }) => replaces),
    [false, true],
  );
});

test("after it has gone over there is no falling back", async () => {
  const world = new World();
  await fallBack(world);
  await world.clock.advance(10_000);
  world.socket.greet();
  world.socket.end();
  await world.clock.advance(0);
  assert.deepEqual([world.sockets.length, world.responses.length], [3, 1]);
});

test("a WebSocket that is still blocked does the stream no harm and is not tried again", async () => {
  const world = new World();
  const { client, told } = await fallBack(world);
  await world.clock.advance(10_000);
  const before = told.state.length;
  world.socket.end();
  await world.clock.advance(30_000);
  assert.equal(client.transport, "sse");
  assert.equal(told.state.length, before);
  assert.equal(world.sockets.length, 2);
  assert.deepEqual(told.error, []);
  world.response.end();
  await world.clock.advance(0);
  assert.equal(world.sockets.length, 3);
});

test("a refusal of the WebSocket beside is not that of the stream", async () => {
  const world = new World();
  const { client, told } = await fallBack(world);
  await world.clock.advance(10_000);
  world.socket.say(closing({ code: 4503, reason: "forbidden", retry: false }));
  world.socket.end(4503);
  assert.equal(client.state, "open");
  assert.deepEqual(told.closing, []);
  assert.ok(told.frame.every((frame) => frame.event !== "closing"));
});

test("when the WebSocket beside takes the place of the stream, it goes on with that", async () => {
  const world = new World();
  const { client } = await fallBack(world);
  await world.clock.advance(10_000);
  world.response.say(
    closing({ code: 4512, reason: "connection_replaced", retry: false }),
  );
  await settle();
  world.response.end();
  await settle();
  assert.equal(client.state, "reconnecting");
  world.socket.greet({ resume: "complete" });
  assert.equal(client.state, "open");
  assert.equal(client.transport, "websocket");
  await world.clock.advance(20_000);
  assert.deepEqual([world.sockets.length, world.responses.length], [2, 1]);
});

test("closing ends the WebSocket beside as well, and its plan", async () => {
  const world = new World();
  const { client } = await fallBack(world);
  await world.clock.advance(10_000);
  client.close();
  assert.equal(client.state, "closed");
  assert.notEqual(world.socket.closedWith, undefined);
  assert.equal(world.clock.waiting, 0);
  const { client: other } = await fallBack(new World());
  other.close();
  assert.equal(world.clock.waiting, 0);
});

test("a stream that ends before that plans anew", async () => {
  const world = new World();
  await fallBack(world);
  await world.clock.advance(5000);
  world.response.end();
  await world.clock.advance(0);
  world.socket.end();
  await world.clock.advance(0);
  world.response.greet();
  await world.clock.advance(9999);
  assert.equal(world.sockets.length, 2);
  await world.clock.advance(1);
  assert.equal(world.sockets.length, 3);
});

test("a paused stream is left alone: the WebSocket might not be able to pause", async () => {
  const world = new World();
  const { client } = await fallBack(world);
  client.pause();
  await world.clock.advance(10_000);
  assert.equal(world.sockets.length, 1);
});

test("who has chosen event streams only gets nothing beside", async () => {
  const world = new World();
  await world.start({ transports: ["sse"] });
  world.response.greet();
  await world.clock.advance(60_000);
  assert.equal(world.sockets.length, 0);
});

test("closing before the first open is no failure of the transport", async () => {
  const world = new World();
  const { client } = await world.start({ fallbackAfter: 1 });
  client.close();
  world.socket.end();
  client.connect();
  await settle();
  assert.deepEqual([world.sockets.length, world.responses.length], [2, 0]);
});

test("who wants WebSockets only never gets anything else", async () => {
  const world = new World();
  await world.start({ transports: ["websocket"] });
  for (const _ of [1, 2, 3]) await failSocket(world);
  assert.equal(world.responses.length, 0);
});
