import assert from "node:assert/strict";
import { test } from "node:test";

import { World, closing, event, ids, settle } from "./fakes.mjs";

const last = (told) => told.state.at(-1);

/** A client on a `WebSocketStream`. */
async function openStream(world, options = {}) {
  const started = await world.start({ pausable: true, ...options });
  world.stream.greet();
  await settle();
  return started;
}

/** A client on an event stream. */
async function openSse(world, options = {}) {
  const started = await world.start({ transports: ["sse"], ...options });
  world.response.greet();
  await settle();
  return started;
}

test("a plain WebSocket cannot be paused, and says so", async () => {
  const world = new World();
  const { client, told } = await world.open();
  assert.equal(client.canPause, false);
  assert.equal(client.pause(), false);
  assert.equal(client.paused, false);
  world.socket.say(event("6-0"));
  assert.equal(told.event.length, 1);
});

test("whether it can pause is known before it is connected", () => {
  const world = new World();
  assert.equal(world.client().canPause, false);
  assert.equal(world.client({ pausable: true }).canPause, true);
  assert.equal(world.client({ transports: ["sse"] }).canPause, true);
  const old = new World({ WebSocketStream: null });
  assert.equal(old.client({ pausable: true }).canPause, false);
});

test("a WebSocketStream is used only where it is asked for", async () => {
  const world = new World();
  await world.open();
  assert.equal(world.streams.length, 0);
});

test("a WebSocketStream does all that a WebSocket does", async () => {
  const world = new World();
  const { client, told } = await openStream(world, { token: "t1" });
  assert.equal(client.state, "open");
  assert.equal(client.transport, "websocket");
  assert.deepEqual(world.stream.protocols, ["broker.v1", "bearer.t1"]);
  world.stream.say(event("6-0@6"));
  await settle();
  assert.deepEqual(ids(told.event), ["6-0@6"]);
  const answer = client.send("x");
  await settle();
  assert.equal(world.stream.sent[0].cmd, "x");
  world.stream.say({ event: "ack", data: { id: "7-0", ref: "command-1" } });
  assert.deepEqual(await answer, { id: "7-0" });
  client.close();
  assert.deepEqual(world.stream.closedWith, { closeCode: 1000 });
  world.stream.end(1000);
  await settle();
  assert.equal(client.state, "closed");
});

test("a WebSocketStream that is cut, or never opens, is resumed", async () => {
  const world = new World();
  const { told } = await openStream(world);
  world.stream.say(event("6-0@6"));
  await settle();
  world.stream.cut();
  await settle();
  assert.deepEqual([last(told).state, last(told).code], ["reconnecting", 1006]);
  await world.clock.advance(250);
  assert.equal(world.stream.url.searchParams.get("last_event_id"), "6-0@6");
  world.stream.cut();
  await settle();
  assert.equal(last(told).retryInMs, 500);
});

test("how a WebSocketStream was cut is told as far as it is known", async () => {
  const world = new World();
  const { told } = await openStream(world);
  world.stream.cut({ closeCode: 4002, reason: "no_progress" });
  await settle();
  assert.deepEqual([last(told).code, last(told).reason], [4002, "no_progress"]);
  await world.clock.advance(250);
  world.stream.greet({ resume: "complete" });
  await settle();
  world.stream.cut({});
  await settle();
  assert.deepEqual([last(told).code, last(told).reason], [1006, "connection_lost"]);
});

test("a WebSocketStream that is given up is closed, and not heard any more", async () => {
  const world = new World();
  const { client, told } = await openStream(world);
  await world.clock.advance(62_500);
  assert.equal(last(told).reason, "silent");
  assert.notEqual(world.streams[0].closedWith, undefined);
  world.streams[0].say(event("6-0"));
  world.streams[0].end(4509);
  await settle();
  assert.deepEqual(told.event, []);
  assert.equal(client.state, "reconnecting");
});

test("what came before the end of a WebSocketStream is handed on before the end", async () => {
  const world = new World();
  const { client, told } = await openStream(world);
  const sent = Array.from({ length: 50 }, (_, n) => `${n + 6}-0`);
  for (const id of sent) world.stream.say(event(id));
  world.stream.say(closing({ code: 4509, reason: "session_evicted", retry: false }));
  world.stream.end(4509);
  await settle();
  assert.deepEqual(ids(told.event), sent);
  assert.equal(client.state, "closed");
  assert.equal(last(told).reason, "session_evicted");
});

test("a paused WebSocketStream is not read: what the server sends stays in the network", async () => {
  const world = new World();
  const { client, told } = await openStream(world);
  assert.equal(client.pause(), true);
  assert.equal(client.paused, true);
  const before = world.stream.reads;
  for (const n of [6, 7, 8, 9]) world.stream.say(event(`${n}-0`));
  await world.clock.advance(1000);
  assert.deepEqual(told.event, []);
  // One read was under way already.
  assert.equal(world.stream.reads, before);
  client.resume();
  await settle();
  assert.deepEqual(ids(told.event), ["6-0", "7-0", "8-0", "9-0"]);
  assert.equal(client.paused, false);
});

test("a listener that pauses gets nothing more until it resumes, also of the same piece", async () => {
  const world = new World();
  const { client, told } = await openSse(world);
  const leave = client.on("event", () => client.pause());
  const piece = [6, 7, 8].map((n) => `data: ${JSON.stringify(event(`${n}-0`))}\n\n`);
  world.response.write(piece.join(""));
  await settle();
  assert.deepEqual(ids(told.event), ["6-0"]);
  leave();
  client.resume();
  await settle();
  assert.deepEqual(ids(told.event), ["6-0", "7-0", "8-0"]);
});

test("a paused event stream is not read", async () => {
  const world = new World();
  const { client, told } = await openSse(world);
  client.pause();
  const before = world.response.reads;
  for (const n of [6, 7, 8]) world.response.say(event(`${n}-0`));
  await settle();
  assert.deepEqual(told.event, []);
  assert.ok(world.response.reads <= before + 1);
  client.resume();
  await settle();
  assert.equal(told.event.length, 3);
});

test("the silence of a pause is no death, that after it is", async () => {
  const world = new World();
  const { client, told } = await openStream(world);
  client.pause();
  world.document.become("visible");
  await world.clock.advance(3_600_000);
  assert.equal(client.state, "open");
  assert.deepEqual(world.stream.sent, []);
  client.resume();
  world.document.become("visible");
  await settle();
  assert.deepEqual(world.stream.sent, [{ cmd: "ping" }]);
  world.stream.say({ event: "pong", data: {} });
  for (const _ of [1, 2, 3]) {
    await world.clock.advance(60_000);
    world.stream.say({ event: "heartbeat" });
  }
  await settle();
  assert.equal(client.state, "open");
  await world.clock.advance(62_500);
  assert.equal(last(told).reason, "silent");
});

test("a connection that ends while paused is noticed, and the next one is paused again", async () => {
  const world = new World();
  const { client, told } = await openStream(world);
  client.pause();
  world.stream.say(event("6-0@6"));
  await settle();
  world.stream.end(4002, "no_progress");
  await settle();
  assert.equal(last(told).reason, "no_progress");
  await world.clock.advance(250);
  assert.equal(world.stream.url.searchParams.get("last_event_id"), "5-0@5");
  world.stream.greet({ resume: "complete" });
  await settle();
  assert.equal(client.state, "open");
  world.stream.say(event("6-0@6"));
  await settle();
  assert.deepEqual(told.event, []);
  client.resume();
  await settle();
  assert.deepEqual(ids(told.event), ["6-0@6"]);
});

test("a client can be paused before it is connected", async () => {
  const world = new World();
  const client = world.client({ pausable: true });
  const heard = [];
  client.on("event", ({ id }) => heard.push(id));
  assert.equal(client.pause(), true);
  client.connect();
  await settle();
  world.stream.greet();
  world.stream.say(event("6-0"));
  await settle();
  assert.equal(client.state, "open");
  assert.deepEqual(heard, []);
  client.resume();
  await settle();
  assert.deepEqual(heard, ["6-0"]);
});

test("a client that is paused while it connects connects, and then hands nothing on", async () => {
  const world = new World();
  const { client, told } = await world.start({ pausable: true });
  client.pause();
  world.stream.greet();
  world.stream.say(event("6-0"));
  await settle();
  assert.equal(client.state, "open");
  assert.deepEqual(told.event, []);
});

test("a WebSocketStream serves where there is nothing else", async () => {
  const world = new World({ WebSocket: null });
  await world.start({ pausable: true });
  assert.equal(world.streams.length, 1);
  await world.start();
  assert.equal(world.responses.length, 1);
});

test("closing a paused client is over when the server has answered", async () => {
  const world = new World();
  const { client } = await openStream(world);
  client.pause();
  world.stream.say(event("6-0"));
  client.close();
  world.stream.end(1000);
  await settle();
  assert.equal(client.state, "closed");
});

test("a slow loop holds back the stream instead of ending the connection", async () => {
  const world = new World();
  const { client, told } = await openStream(world, { bufferSize: 4 });
  const loop = client[Symbol.asyncIterator]();
  for (const n of [10, 11, 12, 13, 14, 15]) world.stream.say(event(`${n}-0`));
  await settle();
  assert.equal(told.event.length, 4);
  assert.equal(client.paused, false);
  await loop.next();
  await settle();
  assert.equal(told.event.length, 4);
  await loop.next();
  await settle();
  assert.equal(told.event.length, 6);
  assert.equal(world.streams.length, 1);
});

test("resuming does not open what a full loop holds shut", async () => {
  const world = new World();
  const { client, told } = await openStream(world, { bufferSize: 1 });
  const loop = client[Symbol.asyncIterator]();
  world.stream.say(event("6-0"));
  world.stream.say(event("7-0"));
  await settle();
  client.pause();
  client.resume();
  await settle();
  assert.equal(told.event.length, 1);
  await loop.return();
  await settle();
  assert.equal(told.event.length, 2);
});
