import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";

import { World, closing, settle } from "./fakes.mjs";

const last = (told) => told.state.at(-1);
const PING = { cmd: "ping" };

// Liveness.

test("a connection from which nothing comes for two and a half heartbeats is dead", async () => {
  const world = new World();
  const { client, told } = await world.open();
  await world.clock.advance(62_499);
  assert.equal(client.state, "open");
  await world.clock.advance(1);
  assert.equal(last(told).reason, "silent");
  assert.equal(told.error[0].code, "silent");
  assert.equal(world.sockets[0].isHeard, false);
});

test("any frame is a sign of life", async () => {
  const world = new World();
  const { client } = await world.open();
  for (const _ of [1, 2, 3, 4]) {
    await world.clock.advance(60_000);
    world.socket.say({ event: "heartbeat" });
  }
  assert.equal(client.state, "open");
  assert.equal(world.sockets.length, 1);
});

test("the server says how often its heart beats", async () => {
  const world = new World();
  const { told } = await world.start();
  world.socket.welcome({ heartbeat_s: 2 });
  await world.clock.advance(5000);
  assert.equal(last(told).reason, "silent");
});

test("a connection that closes is not watched any more", async () => {
  const world = new World();
  const { client } = await world.open();
  client.close();
  world.socket.end(1000);
  await world.clock.advance(100_000);
  assert.equal(client.state, "closed");
});

test("a clock that is put back does not make a dead connection live on", async () => {
  const world = new World();
  const { client } = await world.open();
  world.skewMs = -3_600_000;
  await world.clock.advance(5000 + 62_500);
  assert.notEqual(client.state, "open");
});

// Waking up.

test("after a freeze it asks at once, instead of judging by a silence it could not hear", async () => {
  const world = new World();
  const { client } = await world.open();
  await world.clock.freeze(3_600_000);
  assert.deepEqual(world.socket.sent, [PING]);
  assert.equal(client.state, "open");
  world.socket.say({ event: "pong", data: {} });
  await world.clock.advance(60_000);
  assert.equal(client.state, "open");
});

test("who does not answer after a freeze is dead in seconds", async () => {
  const world = new World();
  const { told } = await world.open();
  await world.clock.freeze(3_600_000);
  await world.clock.advance(5000);
  assert.equal(last(told).reason, "unanswered");
});

test("a page that comes to the front asks at once", async () => {
  const world = new World();
  const { told } = await world.open();
  world.document.become("hidden");
  assert.deepEqual(world.socket.sent, []);
  world.document.become("visible");
  assert.deepEqual(world.socket.sent, [PING]);
  await world.clock.advance(5000);
  assert.equal(last(told).reason, "unanswered");
});

test("a page that is resumed or comes back from the cache asks at once", async () => {
  const world = new World();
  await world.open();
  world.document.dispatchEvent(new Event("resume"));
  world.window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  assert.deepEqual(world.socket.sent, [PING, PING]);
  world.window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: false }));
  assert.equal(world.socket.sent.length, 2);
});

test("a hidden page does not look for freezes, only for silence", async () => {
  const world = new World();
  const { told } = await world.open();
  world.document.visibilityState = "hidden";
  await world.clock.advance(5000);
  await world.clock.freeze(20_000);
  assert.deepEqual(world.socket.sent, []);
  await world.clock.advance(37_500);
  assert.equal(last(told).reason, "silent");
});

test("a sleep of ten seconds is noticed, a busy second is not", async () => {
  const world = new World();
  await world.open();
  await world.clock.freeze(8000);
  assert.deepEqual(world.socket.sent, []);
  await world.clock.freeze(10_000);
  assert.deepEqual(world.socket.sent, [PING]);
});

test("where the server does not say how often its heart beats, it is every 25 seconds", async () => {
  const world = new World();
  const { client, told } = await world.start();
  world.socket.welcome({ heartbeat_s: undefined });
  await world.clock.advance(62_499);
  assert.equal(client.state, "open");
  await world.clock.advance(1);
  assert.equal(last(told).reason, "silent");
});

test("reading on where nothing was paused does not put off the verdict", async () => {
  const world = new World();
  const { client, told } = await world.start({ transports: ["sse"] });
  world.response.greet();
  await settle();
  await world.clock.advance(60_000);
  client.resume();
  await world.clock.advance(2500);
  assert.equal(last(told).reason, "silent");
});

test("an answer after a question leaves no timer behind", async () => {
  const world = new World();
  const { client } = await world.open();
  world.document.become("visible");
  world.document.become("visible");
  world.socket.say({ event: "pong", data: {} });
  client.close();
  world.socket.end(1000);
  assert.equal(world.clock.waiting, 0);
});

test("a page that wakes up while an attempt is under way makes no second one", async () => {
  const world = new World();
  await world.open();
  world.socket.end();
  await world.clock.advance(250);
  world.document.become("visible");
  world.goOnline();
  await world.clock.advance(1000);
  assert.equal(world.sockets.length, 2);
});

test("a wake-up starts the waits anew", async () => {
  const world = new World();
  const { told } = await world.start({ transports: ["websocket"] });
  for (const waitMs of [250, 500, 1000]) {
    world.socket.end();
    await world.clock.advance(waitMs);
  }
  world.socket.end();
  world.document.become("visible");
  await settle();
  world.socket.end();
  assert.equal(last(told).retryInMs, 250);
});

test("a page that wakes up while it waits tries at once", async () => {
  const world = new World();
  const { client } = await world.open();
  world.socket.end();
  world.document.become("visible");
  await settle();
  assert.equal(world.sockets.length, 2);
  world.socket.greet();
  assert.equal(client.state, "open");
  await world.clock.advance(30_000);
  assert.equal(world.sockets.length, 2);
});

test("a wake-up does not come before the time that the server has named", async () => {
  const world = new World();
  await world.open();
  world.socket.say(
    closing({ code: 4000, reason: "draining", retry: true, delay_ms: 9000 }),
  );
  world.socket.end(4000);
  world.document.become("visible");
  await settle();
  assert.equal(world.sockets.length, 1);
  await world.clock.advance(9000);
  assert.equal(world.sockets.length, 2);
});

// The network.

test("while the network is away it waits as long as it may", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.end();
  assert.equal(last(told).retryInMs, 250);
  world.goOffline();
  assert.equal(last(told).reason, "offline");
  assert.equal(last(told).retryInMs, 30_000);
  await world.clock.advance(29_999);
  assert.equal(world.sockets.length, 1);
});

test("it tries now and then although the browser says that there is no network", async () => {
  const world = new World();
  await world.open();
  world.navigator.onLine = false;
  world.socket.end();
  await world.clock.advance(30_000);
  assert.equal(world.sockets.length, 2);
});

test("when the network is back it comes back soon, by chance within the first bound", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.end();
  world.goOffline();
  world.goOnline();
  assert.equal(last(told).reason, "online");
  assert.equal(last(told).retryInMs, 250);
  await world.clock.advance(250);
  assert.equal(world.sockets.length, 2);
});

test("when the network is back it still waits as the server has asked", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.say(
    closing({ code: 4000, reason: "draining", retry: true, delay_ms: 9000 }),
  );
  world.socket.end(4000);
  world.goOffline();
  await world.clock.advance(4000);
  world.goOnline();
  assert.equal(last(told).retryInMs, 5000);
});

test("an open connection is asked when the network changes", async () => {
  const world = new World();
  const { client, told } = await world.open();
  world.goOffline();
  world.goOnline();
  assert.deepEqual(world.socket.sent, [PING, PING]);
  assert.equal(client.state, "open");
  await world.clock.advance(5000);
  assert.equal(last(told).reason, "unanswered");
});

test("a connection that answers lives on although the browser says offline", async () => {
  const world = new World();
  const { client } = await world.open();
  world.goOffline();
  world.socket.say({ event: "pong", data: {} });
  await world.clock.advance(20_000);
  assert.equal(client.state, "open");
});

test("a closed client has no listener anywhere", async () => {
  const world = new World();
  const { signal } = new AbortController();
  const { client } = await world.open({ signal });
  const targets = [
    [world.document, "visibilitychange"],
    [world.document, "resume"],
    [world.window, "pageshow"],
    [world.window, "online"],
    [world.window, "offline"],
    [signal, "abort"],
  ];
  const counts = () => targets.map((target) => getEventListeners(...target).length);
  assert.deepEqual(counts(), [1, 1, 1, 1, 1, 1]);
  client.close();
  world.socket.end(1000);
  assert.deepEqual(counts(), [0, 0, 0, 0, 0, 0]);
});

test("a closed client listens to the page no more", async () => {
  const world = new World();
  const { client, told } = await world.open();
  world.socket.end(4500);
  const before = told.state.length;
  world.goOffline();
  world.goOnline();
  world.document.become("visible");
  await world.clock.advance(60_000);
  assert.equal(client.state, "closed");
  assert.equal(told.state.length, before);
});

test("it works where there is no page at all", async () => {
  const world = new World({ document: null, window: null, navigator: null });
  const { client } = await world.open();
  world.socket.end();
  await world.clock.advance(250);
  world.socket.greet({ resume: "complete" });
  assert.equal(client.state, "open");
});
