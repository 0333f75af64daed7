import assert from "node:assert/strict";
import { test } from "node:test";

import { World, settle, states } from "./fakes.mjs";

const last = (told) => told.state.at(-1);

test("closing takes leave of the server and is over when that has answered", async () => {
  const world = new World();
  const { client, told } = await world.open();
  client.close();
  assert.equal(client.state, "closing");
  assert.deepEqual(world.socket.closedWith, { code: 1000 });
  world.socket.end(1000);
  assert.equal(client.state, "closed");
  assert.deepEqual(states(told).slice(-2), ["closing", "closed"]);
  assert.equal(last(told).reason, "client");
  assert.deepEqual(told.error, []);
  assert.equal(world.clock.waiting, 0);
});

test("closing before the server has answered at all leaves nothing behind", async () => {
  const world = new World();
  const { client } = await world.start();
  client.close();
  world.socket.end(1006);
  assert.equal(client.state, "closed");
  assert.equal(world.clock.waiting, 0);
});

test("closing is over in bounded time although the server does not answer", async () => {
  const world = new World();
  const { client } = await world.open();
  client.close();
  await world.clock.advance(2000);
  assert.equal(client.state, "closed");
});

test("closing while it waits is over at once", async () => {
  const world = new World();
  const { client, told } = await world.start();
  world.socket.end();
  client.close();
  assert.deepEqual(states(told).slice(-2), ["closing", "closed"]);
  await world.clock.advance(100_000);
  assert.equal(world.sockets.length, 1);
});

test("a frame that comes while it closes is not handed on", async () => {
  const world = new World();
  const { client, told } = await world.open();
  client.close();
  world.socket.say({ id: "6-0", session: "s1", event: "x", timestamp: "t" });
  assert.deepEqual(told.event, []);
});

test("a closed client can connect again and resumes", async () => {
  const world = new World();
  const { client } = await world.open();
  client.close();
  world.socket.end(1000);
  client.connect();
  await settle();
  assert.equal(client.state, "connecting");
  assert.equal(world.socket.url.searchParams.get("last_event_id"), "5-0@5");
});

test("connecting while it closes begins anew at once", async () => {
  const world = new World();
  const { client, told } = await world.open();
  client.close();
  client.connect();
  await settle();
  assert.deepEqual(states(told).slice(-3), ["closing", "closed", "connecting"]);
  assert.equal(world.sockets.length, 2);
});

test("connecting again begins with a short wait and without former refusals", async () => {
  const world = new World();
  const { client, told } = await world.start({ transports: ["websocket"] });
  for (const waitMs of [250, 500, 1000]) {
    world.socket.end();
    await world.clock.advance(waitMs);
  }
  client.close();
  world.socket.end();
  client.connect();
  await settle();
  world.socket.end();
  assert.equal(last(told).retryInMs, 250);
});

test("a listener that closes as soon as it connects has made no connection", async () => {
  const world = new World();
  const client = world.client();
  client.on("state", ({ state }) => state === "connecting" && client.close());
  client.connect();
  await settle();
  assert.equal(client.state, "closed");
  assert.equal(world.sockets.length, 0);
});

test("a listener may connect again while it closes", async () => {
  const world = new World();
  const { client } = await world.open();
  const leave = client.on(
    "state",
    ({ state }) => state === "closing" && client.connect(),
  );
  client.close();
  leave();
  await settle();
  assert.equal(client.state, "connecting");
  assert.equal(world.sockets.length, 2);
});

test("a listener may close the client whatever it is told", async () => {
  const world = new World();
  for (const name of ["state", "frame", "subscribed", "error"]) {
    const client = world.client();
    client.on(name, () => client.close());
    client.connect();
    await settle();
    world.socket?.greet();
    world.socket?.end();
    await world.clock.advance(60_000);
    assert.equal(client.state, "closed", name);
  }
});

test("a listener may connect again when the client is closed", async () => {
  const world = new World();
  const { client } = await world.open();
  const leave = client.on("state", ({ state }) => state === "closed" && client.connect());
  world.socket.end(4500);
  leave();
  await settle();
  assert.equal(client.state, "connecting");
  assert.equal(world.sockets.length, 2);
});

test("an abort closes the client", async () => {
  const world = new World();
  const controller = new AbortController();
  const { client, told } = await world.open({ signal: controller.signal });
  controller.abort();
  assert.equal(client.state, "closing");
  world.socket.end(1000);
  assert.equal(last(told).reason, "aborted");
});

test("an abort before the start makes no connection", async () => {
  const world = new World();
  const { client, told } = await world.start({ signal: AbortSignal.abort() });
  assert.equal(client.state, "closed");
  assert.equal(last(told).reason, "aborted");
  assert.equal(world.sockets.length, 0);
});

test("an abort after the end changes nothing", async () => {
  const world = new World();
  const controller = new AbortController();
  const { told } = await world.open({ signal: controller.signal });
  world.socket.end(4500);
  const before = told.state.length;
  controller.abort();
  assert.equal(told.state.length, before);
});
