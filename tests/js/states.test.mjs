import assert from "node:assert/strict";
import { test } from "node:test";

import { ClientError } from "../../broker/web/client.js";
import { World, closing, settle, states } from "./fakes.mjs";

const last = (told) => told.state.at(-1);

test("a client is idle until it is told to connect", async () => {
  const world = new World();
  const client = world.client();
  await settle();
  assert.equal(client.state, "idle");
  assert.equal(world.sockets.length, 0);
});

test("options that cannot be used are refused at once, in words", () => {
  const world = new World();
  assert.throws(() => world.client({ session: "a/b" }), /session is/);
  assert.throws(() => world.client({ url: "http://" }), /must look like/);
  assert.throws(() => world.client({ transports: [] }), /transports are/);
  assert.throws(() => world.client({ transports: ["pigeon"] }), /transports are/);
  assert.throws(() => world.client({ ackMode: "auto" }), /needs a consumer/);
  assert.throws(() => world.client({ ackMode: "soon", consumer: "me" }), /ackMode is/);
  assert.throws(() => world.client({ consumer: "x".repeat(65) }), /consumer is/);
  assert.throws(() => world.client({ overflow: "wait" }), /overflow is/);
  assert.throws(() => world.client({ since: "yesterday" }), /since is/);
  assert.throws(() => world.client({ token: "white space" }), /token/);
});

test("a start that the broker would refuse is refused at once, and every other is taken", () => {
  const world = new World();
  for (const lastEventId of ["", "-0", "undefined", "5", "1-2@"]) {
    assert.throws(() => world.client({ lastEventId }), /lastEventId is/);
  }
  for (const lastEventId of ["0", "-1", "-100", "5-0", "5-0@5", undefined, null]) {
    world.client({ lastEventId });
  }
  world.client({ since: "2026-01-01T00:00:00.5+01:00" });
});

test("it connects with the subprotocol and the token, which is not in the URL", async () => {
  const world = new World();
  await world.start({
    url: "https://b.test/x",
    token: "abc.def",
    lastEventId: "-5",
    user: "ada",
  });
  assert.equal(
    world.socket.url.href,
    "wss://b.test/x/v1/ws/s1?last_event_id=-5&user=ada",
  );
  assert.deepEqual(world.socket.protocols, ["broker.v1", "bearer.abc.def"]);
});

test("it is open when the broker has said welcome, not before", async () => {
  const world = new World();
  const { client, told } = await world.start();
  assert.equal(client.state, "connecting");
  assert.equal(client.connectionId, null);
  world.socket.welcome();
  assert.deepEqual(states(told), ["connecting", "open"]);
  assert.deepEqual(last(told), {
    state: "open",
    previous: "connecting",
    reason: "welcome",
    code: null,
    retryInMs: null,
    transport: "websocket",
  });
  assert.equal(client.connectionId, "c0ffee");
  assert.equal(client.transport, "websocket");
});

test("connecting twice is connecting once", async () => {
  const world = new World();
  const { client } = await world.start();
  client.connect();
  world.socket.greet();
  client.connect();
  await settle();
  assert.equal(client.state, "open");
  assert.equal(world.sockets.length, 1);
});

test("a first attempt that fails is a state and no error", async () => {
  const world = new World();
  const { told } = await world.start();
  world.socket.end(1006);
  assert.deepEqual(states(told), ["connecting", "reconnecting"]);
  assert.equal(last(told).reason, "connection_lost");
  assert.equal(last(told).code, 1006);
  assert.equal(last(told).retryInMs, 250);
  assert.deepEqual(told.error, []);
  assert.deepEqual(world.complaints, []);
});

test("it tries again after the wait, and each wait may be longer", async () => {
  const world = new World();
  const { told } = await world.start({ transports: ["websocket"] });
  for (const waitMs of [250, 500, 1000, 2000]) {
    world.socket.end();
    assert.equal(last(told).retryInMs, waitMs);
    await world.clock.advance(waitMs - 1);
    const before = world.sockets.length;
    await world.clock.advance(1);
    assert.equal(world.sockets.length, before + 1);
  }
});

test("waits stay within the bounds of the options, by chance", async () => {
  const world = new World();
  world.luck = 0.999;
  const backoff = { minMs: 100, maxMs: 300 };
  const { told } = await world.start({ transports: ["websocket"], backoff });
  for (const _ of [1, 2, 3, 4]) {
    world.socket.end();
    await world.clock.advance(300);
  }
  const waits = told.state.slice(1).map((change) => change.retryInMs);
  assert.deepEqual(waits, [100, 200, 300, 300]);
});

test("after the first open a lost connection is an error as well", async () => {
  const world = new World();
  const { told } = await world.open();
  const caughtUp = { position: "5-0@5", replayed: 0 };
  world.socket.say({ event: "caught_up", session: "s1", data: caughtUp });
  world.socket.end(1006);
  assert.equal(told.error.length, 1);
  assert.ok(told.error[0] instanceof ClientError);
  assert.equal(told.error[0].name, "ClientError");
  assert.equal(told.error[0].code, "connection_lost");
  assert.equal(told.error[0].terminal, false);
});

test("an outage is one error, however many attempts it takes to come back", async () => {
  const world = new World();
  world.luck = 0;
  const { told } = await world.open();
  for (const _ of [1, 2, 3, 4]) {
    world.socket.end();
    await world.clock.advance(0);
  }
  assert.equal(told.error.length, 1);
});

test("an error without a close behind it, as Node has them, is an end as well", async () => {
  const world = new World();
  const { client } = await world.start();
  world.socket.onerror();
  await world.clock.advance(0);
  assert.equal(client.state, "reconnecting");
  assert.equal(world.sockets[0].isHeard, false);
});

test("an error with a close behind it is one end", async () => {
  const world = new World();
  const { told } = await world.start();
  world.socket.onerror();
  world.socket.end(4503, "forbidden");
  await world.clock.advance(0);
  assert.deepEqual(states(told), ["connecting", "closed"]);
});

test("a drain is no error, and the server's own delay is kept to the millisecond", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.say(
    closing({ code: 4000, reason: "draining", retry: true, delay_ms: 4321 }),
  );
  world.socket.end(4000, "draining");
  assert.deepEqual(told.error, []);
  assert.deepEqual(told.closing[0].code, 4000);
  assert.equal(last(told).reason, "draining");
  assert.equal(last(told).retryInMs, 4321);
  await world.clock.advance(4320);
  assert.equal(world.sockets.length, 1);
  await world.clock.advance(1);
  assert.equal(world.sockets.length, 2);
});

for (const code of [4001, 4002, 4004, 4006, 4499, 1001, 1012, 1006]) {
  test(`code ${code} reconnects`, async () => {
    const world = new World();
    const { client } = await world.open();
    world.socket.end(code);
    assert.equal(client.state, "reconnecting");
    await world.clock.advance(250);
    assert.equal(world.sockets.length, 2);
  });
}

for (const code of [1000, 1002, 1009, 4500, 4501, 4503, 4509, 4510, 4511, 4999]) {
  test(`code ${code} closes for good`, async () => {
    const world = new World();
    const { client, told } = await world.open();
    world.socket.say(
      closing({ code, reason: "because", retry: false, replaced_by: "s9" }),
    );
    world.socket.end(code);
    assert.equal(client.state, "closed");
    assert.deepEqual([last(told).code, last(told).reason], [code, "because"]);
    assert.equal(told.error[0].terminal, true);
    assert.equal(told.error[0].closeCode, code);
    await world.clock.advance(1_000_000);
    assert.equal(world.sockets.length, 1);
    assert.equal(world.clock.waiting, 0);
  });
}

test("a refusal for good is told although nothing was ever open", async () => {
  const world = new World();
  const { client, told } = await world.start();
  world.socket.say(closing({ code: 4503, reason: "forbidden", retry: false }));
  world.socket.end(4503);
  assert.equal(client.state, "closed");
  assert.equal(told.error[0].code, "forbidden");
});

test("what was said before a cut counts as if the close frame had come", async () => {
  const world = new World();
  const { client, told } = await world.open();
  world.socket.say(closing({ code: 4509, reason: "session_evicted", retry: false }));
  world.socket.end(1006);
  assert.equal(client.state, "closed");
  assert.equal(last(told).code, 4509);
});

test("a server that says no welcome in time is given up", async () => {
  const world = new World();
  const { told } = await world.start({ connectTimeoutMs: 3000 });
  await world.clock.advance(3000);
  assert.equal(last(told).reason, "connect_timeout");
  assert.equal(world.sockets[0].isHeard, false);
  assert.notEqual(world.sockets[0].closedWith, undefined);
});

test("what a connection says after it was given up is not heard", async () => {
  const world = new World();
  const { client } = await world.start({ connectTimeoutMs: 3000 });
  await world.clock.advance(3000);
  world.sockets[0].welcome();
  world.sockets[0].end(4509);
  assert.equal(client.state, "reconnecting");
});

test("a browser that refuses the URL is a failed attempt", async () => {
  class Refusing {
    constructor() {
      throw new Error("SecurityError");
    }
  }
  const world = new World({ WebSocket: Refusing });
  const { told } = await world.start();
  assert.equal(last(told).state, "reconnecting");
  assert.equal(last(told).reason, "cannot_connect");
});

test("a connection that was open for long starts the waits anew", async () => {
  const world = new World();
  const { told } = await world.start({ transports: ["websocket"] });
  world.socket.end();
  await world.clock.advance(250);
  world.socket.end();
  await world.clock.advance(500);
  world.socket.greet();
  await world.clock.advance(10_001);
  world.socket.end();
  assert.equal(last(told).retryInMs, 250);
});

test("a connection that ends as soon as it is open does not", async () => {
  const world = new World();
  const { told } = await world.start({ transports: ["websocket"] });
  world.socket.end();
  await world.clock.advance(250);
  world.socket.greet();
  world.socket.end();
  assert.equal(last(told).retryInMs, 500);
});

test("a listener is called until it is taken away, and no more", async () => {
  const world = new World();
  const client = world.client();
  const heard = [];
  const leave = client.on("state", ({ state }) => heard.push(state));
  client.connect();
  leave();
  client.close();
  assert.deepEqual(heard, ["connecting"]);
  assert.throws(() => client.on("evnet", () => {}), TypeError);
  assert.throws(() => client.on("event", undefined), TypeError);
});

test("takeover is said once: who was evicted meanwhile does not take it back", async () => {
  const world = new World();
  await world.start({ takeover: true, transports: ["websocket"] });
  world.socket.end();
  await world.clock.advance(250);
  assert.equal(world.socket.url.searchParams.get("takeover"), "1");
  world.socket.greet();
  world.socket.end();
  await world.clock.advance(500);
  assert.equal(world.socket.url.searchParams.get("takeover"), null);
});

test("what the broker says of presence, expiry and itself is passed on", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.say({
    event: "joined",
    session: "s1",
    data: { users: ["bob"], count: 2 },
  });
  world.socket.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  world.socket.say({ event: "error", data: { code: "bad_json", message: "no JSON" } });
  world.socket.say({ event: "something_new", data: null });
  assert.deepEqual(told.presence, [
    { type: "joined", session: "s1", users: ["bob"], count: 2 },
  ]);
  assert.deepEqual(told.token_expiring, [{ expires_in_s: 60 }]);
  assert.equal(told.error[0].code, "bad_json");
  assert.equal(told.frame.at(-1).event, "something_new");
});
