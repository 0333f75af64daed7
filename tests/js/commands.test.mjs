import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { test } from "node:test";

import { CommandError } from "../../broker/web/client.js";
import { World, event, outcome, reconnect, settle, subscribed } from "./fakes.mjs";

globalThis.crypto ??= webcrypto; // Node 18 hides what every browser has.

const ack = (ref, id = "77-0") => ({ event: "ack", data: { id, ref } });
const refusal = (ref, code, more) => ({
  event: "error",
  data: { code, message: `it is ${code}`, ref, ...more },
});

test("a command is sent as it stands in the protocol and answered with its entry", async () => {
  const world = new World();
  const { client } = await world.open();
  const answer = client.send("user_input", { content: "hi" });
  assert.deepEqual(world.socket.sent, [
    { cmd: "user_input", id: "command-1", data: { content: "hi" } },
  ]);
  assert.equal(await outcome(answer), "pending");
  world.socket.say(ack("command-1"));
  assert.deepEqual(await answer, { id: "77-0" });
});

test("a command can name its id, another session and no data", async () => {
  const world = new World();
  const { client } = await world.open();
  client.send("stop", null, { id: "my-own-id", session: "s2" });
  assert.deepEqual(world.socket.sent, [{ cmd: "stop", id: "my-own-id", session: "s2" }]);
});

test("ids are new ones where nobody gives any", async () => {
  const world = new World();
  delete world.platform.randomId;
  const { client } = await world.open();
  client.send("a");
  client.send("a");
  const [one, two] = world.socket.sent;
  assert.match(one.id, /^[0-9a-f]{32}$/);
  assert.notEqual(one.id, two.id);
});

test("what cannot be a command is refused here", async () => {
  const world = new World();
  const { client } = await world.open();
  await assert.rejects(client.send(""), TypeError);
  await assert.rejects(client.send("x".repeat(129)), TypeError);
  await assert.rejects(client.send("x", {}, { id: "" }), TypeError);
  for (const cmd of ["ack", "auth", "refresh", "subscribe", "unsubscribe"]) {
    await assert.rejects(client.send(cmd), TypeError);
  }
  assert.deepEqual(world.socket.sent, []);
});

test("an id that waits for its answer is not used a second time", async () => {
  const world = new World();
  const { client } = await world.open();
  client.send("a", {}, { id: "same-same" });
  await assert.rejects(client.send("b", {}, { id: "same-same" }), TypeError);
  assert.equal(world.socket.sent.length, 1);
});

test("a refusal rejects with the code and the words of the broker", async () => {
  const world = new World();
  const { client, told } = await world.open();
  const answer = outcome(client.send("x"));
  world.socket.say(refusal("command-1", "forbidden"));
  const error = await answer;
  assert.ok(error instanceof CommandError);
  assert.equal(error.name, "CommandError");
  assert.deepEqual(
    [error.code, error.message, error.retry],
    ["forbidden", "it is forbidden", false],
  );
  assert.deepEqual(told.error, []);
});

test("a refusal that may pass is tried again until it is taken", async () => {
  const world = new World();
  const { client } = await world.open();
  const answer = client.send("x");
  world.socket.say(refusal("command-1", "rate_limited", { retry: true }));
  await world.clock.advance(249);
  assert.equal(world.socket.sent.length, 1);
  await world.clock.advance(1);
  world.socket.say(refusal("command-1", "rate_limited", { retry: true }));
  await world.clock.advance(499);
  assert.equal(world.socket.sent.length, 2);
  await world.clock.advance(1);
  assert.deepEqual(world.socket.sent[2], world.socket.sent[0]);
  world.socket.say(ack("command-1"));
  assert.deepEqual(await answer, { id: "77-0" });
});

test("a refusal that does not pass in time is what the caller gets", async () => {
  const world = new World();
  const { client } = await world.open();
  const answer = client.send("x", {}, { timeoutMs: 200 });
  const refused = assert.rejects(answer, { code: "overloaded", retry: true });
  world.socket.say(refusal("command-1", "overloaded", { retry: true }));
  await world.clock.advance(200);
  await refused;
  await world.clock.advance(10_000);
  assert.equal(world.socket.sent.filter(({ cmd }) => cmd === "x").length, 1);
});

test("said again after a refusal and not answered, it may have been stored", async () => {
  const world = new World();
  const { client } = await world.open();
  const answer = client.send("x", {}, { timeoutMs: 1000 });
  const failed = assert.rejects(answer, { code: "timeout" });
  world.socket.say(refusal("command-1", "unavailable", { retry: true }));
  await world.clock.advance(1000);
  await failed;
});

test("refused and then without a connection, it was refused", async () => {
  const world = new World();
  const { client } = await world.open();
  const answer = client.send("x", {}, { timeoutMs: 1000 });
  const failed = assert.rejects(answer, { code: "unavailable" });
  world.socket.say(refusal("command-1", "unavailable", { retry: true }));
  world.socket.end();
  await world.clock.advance(1000);
  await failed;
});

test("a command that is given up while it waits to be tried again leaves no timer", async () => {
  const world = new World();
  const { client } = await world.open();
  client.send("x").catch(() => {});
  world.socket.say(refusal("command-1", "unavailable", { retry: true }));
  world.socket.end(4500);
  assert.equal(world.clock.waiting, 0);
});

test("a command without an answer fails in time, and may have been stored", async () => {
  const world = new World();
  const { client } = await world.open({ commandTimeoutMs: 3000 });
  const answer = client.send("x");
  await world.clock.advance(2999);
  assert.equal(await outcome(answer), "pending");
  const failed = assert.rejects(answer, {
    code: "timeout",
    retry: true,
    message: /may have been stored/,
  });
  await world.clock.advance(1);
  await failed;
});

test("an answer that comes too late is ignored", async () => {
  const world = new World();
  const { client, told } = await world.open();
  client.send("x", {}, { timeoutMs: 10 }).catch(() => {});
  await world.clock.advance(10);
  world.socket.say(ack("command-1"));
  world.socket.say(refusal("command-1", "forbidden"));
  assert.equal(client.state, "open");
  assert.deepEqual(told.error, []);
});

test("what was not answered is said again after a reconnect, in order and word for word", async () => {
  const world = new World();
  const { client } = await world.open();
  const answers = [client.send("a", { n: 1 }), client.send("b"), client.send("c")];
  const before = world.socket.sent;
  world.socket.say(ack("command-2", "88-0"));
  await reconnect(world);
  world.socket.welcome();
  assert.deepEqual(world.socket.sent, [before[0], before[2]]);
  world.socket.say(subscribed({ resume: "complete" }));
  assert.equal(world.socket.sent.length, 2);
  world.socket.say(ack("command-1", "87-0"));
  world.socket.say(ack("command-3", "89-0"));
  assert.deepEqual(await Promise.all(answers), [
    { id: "87-0" },
    { id: "88-0" },
    { id: "89-0" },
  ]);
});

test("a command that waits to be tried again is said once by a new connection", async () => {
  const world = new World();
  const { client } = await world.open();
  client.send("x").catch(() => {});
  world.socket.say(refusal("command-1", "unavailable", { retry: true }));
  await reconnect(world);
  world.socket.welcome();
  await world.clock.advance(1000);
  assert.equal(world.socket.sent.length, 1);
});

test("a command may be given before there is a connection", async () => {
  const world = new World();
  const { client } = await world.start();
  const answer = client.send("early");
  client.on("state", ({ state }) => state === "open" && client.send("late"));
  world.socket.welcome();
  assert.deepEqual(
    world.socket.sent.map(({ cmd }) => cmd),
    ["early", "late"],
  );
  world.socket.say(ack("command-1"));
  assert.deepEqual(await answer, { id: "77-0" });
});

test("nobody can send to a client that was not started or is closed", async () => {
  const world = new World();
  await assert.rejects(world.client().send("x"), { code: "not_connected", retry: true });
  const { client } = await world.open();
  client.close();
  await assert.rejects(client.send("x"), { code: "closed" });
  world.socket.end(1000);
  await assert.rejects(client.send("x"), { code: "closed" });
});

test("closing fails what is not answered", async () => {
  const world = new World();
  const { client } = await world.open();
  const answer = client.send("x");
  world.socket.end(4500);
  await assert.rejects(answer, { code: "closed" });
  assert.equal(world.clock.waiting, 0);
});

test("a command larger than the broker takes is not sent: it would end the connection", async () => {
  const world = new World();
  const { client } = await world.start();
  const early = client.send("x", { text: "ä".repeat(40) });
  world.socket.welcome({ max_frame_bytes: 100 });
  await assert.rejects(early, { code: "too_large" });
  await assert.rejects(client.send("x", { text: "ä".repeat(40) }), { code: "too_large" });
  const fits = client.send("x", { text: "ä" });
  assert.equal(await outcome(fits), "pending");
  assert.equal(world.socket.sent.length, 1);
});

test("a ping is of one connection and not said again on another", async () => {
  const world = new World();
  const { client } = await world.start();
  await assert.rejects(client.send("ping"), { code: "not_connected" });
  world.socket.greet();
  const pong = client.send("ping");
  world.socket.say({ event: "pong", data: { ref: world.socket.sent[0].id } });
  assert.deepEqual(await pong, {});
  const answer = client.send("ping");
  const lost = assert.rejects(answer, { code: "disconnected", retry: true });
  await reconnect(world);
  await lost;
  world.socket.greet();
  assert.deepEqual(world.socket.sent, []);
});

// Committed positions.

const committed = (ref, position) => ({
  event: "ack",
  session: "s1",
  data: { position, ref },
});

test("ack commits what was handed on last, or what it is told", async () => {
  const world = new World();
  const { client } = await world.open({ consumer: "me" });
  world.socket.say(event("6-0@6"));
  const done = client.ack();
  client.ack("5-0@5");
  client.ack(event("4-0"));
  assert.deepEqual(
    world.socket.sent.map(({ cmd, data }) => [cmd, data.position]),
    [
      ["ack", "6-0@6"],
      ["ack", "5-0@5"],
      ["ack", "4-0"],
    ],
  );
  world.socket.say(committed("command-1", "6-0@6"));
  assert.deepEqual(await done, { position: "6-0@6" });
});

test("ack in a loop commits the event that the loop has taken", async () => {
  const world = new World();
  const { client } = await world.open({ consumer: "me" });
  const loop = client[Symbol.asyncIterator]();
  world.socket.say(event("6-0"));
  world.socket.say(event("7-0"));
  await loop.next();
  client.ack();
  assert.equal(world.socket.sent[0].data.position, "6-0");
});

test("an ack waits until the new connection reads the session again", async () => {
  const world = new World();
  const { client } = await world.open({ consumer: "me" });
  world.socket.say(event("6-0"));
  const done = client.ack();
  await reconnect(world);
  world.socket.welcome();
  assert.deepEqual(world.socket.sent, []);
  world.socket.greet({ resume: "complete", from: "6-0" });
  assert.equal(world.socket.sent.length, 1);
  world.socket.say(committed("command-1", "6-0"));
  assert.deepEqual(await done, { position: "6-0" });
});

test("an ack before the session is read waits for that", async () => {
  const world = new World();
  const { client } = await world.start({ consumer: "me", lastEventId: "5-0" });
  world.socket.welcome();
  client.ack().catch(() => {});
  assert.deepEqual(world.socket.sent, []);
  world.socket.say(subscribed({ resume: "complete" }));
  assert.equal(world.socket.sent.length, 1);
});

test("ack needs a consumer and something to commit", async () => {
  const world = new World();
  const { client } = await world.open();
  await assert.rejects(client.ack(), { code: "no_consumer" });
  const { client: other } = await world.start({ consumer: "me" });
  await assert.rejects(other.ack(), { code: "no_position" });
});

test("consumer and mode of the commit are in the URL", async () => {
  const world = new World();
  await world.start({ consumer: "me", ackMode: "auto" });
  assert.equal(world.socket.url.search, "?consumer=me&ack=auto");
});

test("many commands at once are answered each by its own", async () => {
  const world = new World();
  const { client } = await world.open();
  const answers = Array.from({ length: 50 }, (_, n) => client.send("x", { n }));
  for (const { id } of [...world.socket.sent].reverse())
    world.socket.say(ack(id, `of ${id}`));
  await settle();
  const got = await Promise.all(answers);
  assert.deepEqual(got[0], { id: "of command-1" });
  assert.deepEqual(got[49], { id: "of command-50" });
});
