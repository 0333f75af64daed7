import assert from "node:assert/strict";
import { test } from "node:test";

import { World, event, outcome, settle } from "./fakes.mjs";

const asked = (world) => world.socket.url.searchParams.get("last_event_id");

test("a loop takes every event in order and ends with the client", async () => {
  const world = new World();
  const { client } = await world.open();
  const taken = [];
  const loop = (async () => {
    for await (const { id } of client) taken.push(id);
  })();
  world.socket.say(event("6-0"));
  world.socket.say(event("7-0"));
  await settle();
  world.socket.say(event("8-0"));
  await settle();
  client.close();
  world.socket.end(1000);
  await loop;
  assert.deepEqual(taken, ["6-0", "7-0", "8-0"]);
});

test("a loop gets what is there before it is told of a refusal", async () => {
  const world = new World();
  const { client } = await world.open();
  const iterator = client[Symbol.asyncIterator]();
  world.socket.say(event("6-0"));
  world.socket.end(4509, "session_evicted");
  assert.equal((await iterator.next()).value.id, "6-0");
  await assert.rejects(iterator.next(), { code: "session_evicted", terminal: true });
  assert.equal((await iterator.next()).done, true);
});

test("a loop that waits is told of a refusal", async () => {
  const world = new World();
  const { client } = await world.open();
  const waits = client[Symbol.asyncIterator]().next();
  world.socket.end(4509, "session_evicted");
  await assert.rejects(waits, { code: "session_evicted" });
});

test("a loop over a closed client is over", async () => {
  const world = new World();
  const { client } = await world.open();
  world.socket.end(4500);
  assert.equal((await client[Symbol.asyncIterator]().next()).done, true);
});

test("what no loop has taken yet is not behind the position", async () => {
  const world = new World();
  const { client } = await world.open();
  const [slow, fast] = [client[Symbol.asyncIterator](), client[Symbol.asyncIterator]()];
  world.socket.say(event("6-0@6"));
  world.socket.say(event("7-0@7"));
  await fast.next();
  assert.equal(client.position, "5-0@5");
  await fast.next();
  assert.equal(client.position, "5-0@5");
  await slow.next();
  assert.equal(client.position, "6-0@6");
  assert.deepEqual(await slow.return(), { value: undefined, done: true });
  assert.equal(client.position, "7-0@7");
  assert.equal((await slow.next()).done, true);
});

test("a loop that is slow ends a connection that cannot be held, and loses nothing", async () => {
  const world = new World();
  const { client, told } = await world.open({ bufferSize: 4 });
  const loop = client[Symbol.asyncIterator]();
  for (const n of [6, 7, 8, 9, 10]) world.socket.say(event(`${n}-0@${n}`));
  assert.equal(told.state.at(-1).reason, "buffer_full");
  assert.equal(told.state.at(-1).retryInMs, null);
  await world.clock.advance(100_000);
  assert.equal(world.sockets.length, 1);
  await loop.next();
  assert.equal(world.sockets.length, 1);
  await loop.next();
  await settle();
  assert.equal(asked(world), "9-0@9");
  world.socket.greet({ resume: "complete" });
  world.socket.say(event("10-0@10"));
  const rest = [await loop.next(), await loop.next(), await loop.next()];
  assert.deepEqual(
    rest.map(({ value }) => value.id),
    ["8-0@8", "9-0@9", "10-0@10"],
  );
  assert.deepEqual(told.error, []);
});

test("a wake-up of the page does not fill a loop that is full", async () => {
  const world = new World();
  const { client } = await world.open({ bufferSize: 1 });
  const loop = client[Symbol.asyncIterator]();
  world.socket.say(event("6-0"));
  world.document.become("visible");
  world.goOnline();
  await world.clock.advance(60_000);
  assert.equal(world.sockets.length, 1);
  await loop.return();
  await settle();
  assert.equal(world.sockets.length, 2);
});

test("a loop that has ended stays ended when the client connects again", async () => {
  const world = new World();
  const { client } = await world.open();
  const loop = client[Symbol.asyncIterator]();
  assert.equal(loop[Symbol.asyncIterator](), loop);
  client.close();
  world.socket.end(1000);
  client.connect();
  await settle();
  world.socket.greet({ resume: "complete" });
  world.socket.say(event("6-0"));
  assert.equal((await loop.next()).done, true);
});

test("of two full loops both have to make room", async () => {
  const world = new World();
  const { client } = await world.open({ bufferSize: 1 });
  const [one, two] = [client[Symbol.asyncIterator](), client[Symbol.asyncIterator]()];
  world.socket.say(event("6-0"));
  await one.next();
  await settle();
  assert.equal(world.sockets.length, 1);
  await two.next();
  await settle();
  assert.equal(world.sockets.length, 2);
});

test("leaving a loop starts nothing that was not stalled by it", async () => {
  const world = new World();
  const idle = world.client();
  await idle[Symbol.asyncIterator]().return();
  const { client } = await world.open();
  const loop = client[Symbol.asyncIterator]();
  world.socket.end();
  await loop.return();
  await settle();
  assert.equal(world.sockets.length, 1);
  client.close();
  client.resume();
  await settle();
  assert.deepEqual([idle.state, client.state], ["idle", "closed"]);
  assert.equal(world.sockets.length, 1);
});

test("an iterator that nothing has come for waits", async () => {
  const world = new World();
  const { client } = await world.open();
  assert.equal(await outcome(client[Symbol.asyncIterator]().next()), "pending");
});
