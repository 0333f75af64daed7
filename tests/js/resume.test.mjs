import assert from "node:assert/strict";
import { test } from "node:test";

import { EventStore } from "../../broker/web/client.js";
import { World, event, gap, ids, reconnect, settle } from "./fakes.mjs";

const asked = (world) => world.socket.url.searchParams.get("last_event_id");

test("events are handed on in order, with all they have", async () => {
  const world = new World();
  const { told } = await world.open();
  const full = event("6-0@6", { seq: 6, data: { chunk: "Hel" }, node_id: "a" });
  world.socket.say(full);
  world.socket.say(event("7-0@7"));
  assert.deepEqual(told.event[0], full);
  assert.deepEqual(ids(told.event), ["6-0@6", "7-0@7"]);
});

test("the next connection resumes from the last event that was handed on", async () => {
  const world = new World();
  const { client } = await world.open({ lastEventId: "0" }, { resume: "complete" });
  world.socket.say(event("6-0@6"));
  world.socket.say(event("7-0@7"));
  assert.equal(client.position, "7-0@7");
  await reconnect(world);
  assert.equal(asked(world), "7-0@7");
});

test("no event is handed on twice, however often it comes", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.say(event("6-0"));
  world.socket.say(event("6-0"));
  await reconnect(world);
  world.socket.greet({ resume: "complete" });
  world.socket.say(event("5-9"));
  world.socket.say(event("6-0@6"));
  world.socket.say(event("6-1@7"));
  assert.deepEqual(ids(told.event), ["6-0", "6-1@7"]);
});

test("places are compared beyond what a number of JavaScript holds", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.say(event("9007199254740992-0"));
  world.socket.say(event("9007199254740993-0"));
  world.socket.say(event("9007199254740993-18446744073709551614"));
  world.socket.say(event("9007199254740993-18446744073709551615"));
  assert.equal(told.event.length, 4);
});

test("the position moves only after the listeners were called", async () => {
  const world = new World();
  const { client } = await world.open();
  const seen = [];
  client.on("event", () => seen.push(client.position));
  world.socket.say(event("6-0@6"));
  world.socket.say(event("7-0@7"));
  assert.deepEqual(seen, ["5-0@5", "6-0@6"]);
});

test("a listener that throws breaks nothing and is reported", async () => {
  const world = new World();
  const { client, told } = await world.open();
  const fault = new Error("of the application");
  client.on("event", () => {
    throw fault;
  });
  const others = [];
  client.on("event", ({ id }) => others.push(id));
  world.socket.say(event("6-0@6"));
  world.socket.say(event("7-0@7"));
  assert.deepEqual(others, ["6-0@6", "7-0@7"]);
  assert.equal(client.position, "7-0@7");
  assert.equal(client.state, "open");
  assert.equal(told.error.length, 2);
  assert.equal(told.error[0].code, "listener");
  assert.equal(told.error[0].cause, fault);
});

test("a listener whose promise is rejected is reported as well", async () => {
  const world = new World();
  const { client, told } = await world.open();
  client.on("event", async () => {
    throw new Error("later");
  });
  world.socket.say(event("6-0"));
  await settle();
  assert.equal(told.error[0].cause.message, "later");
});

test("where nobody listens to errors they go to the console", async () => {
  const world = new World();
  const client = world.client();
  const fault = new Error("of the application");
  client.on("state", () => {
    throw fault;
  });
  client.connect();
  assert.equal(world.complaints[0][1], fault);
});

test("a listener of errors that throws does not go round in circles", async () => {
  const world = new World();
  const { client } = await world.open();
  client.on("error", () => {
    throw new Error("again");
  });
  world.socket.end();
  assert.equal(client.state, "reconnecting");
  assert.equal(world.complaints.length, 1);
});

test("live without an event yet, it resumes from the tip it was told", async () => {
  const world = new World();
  const { client } = await world.open(
    {},
    { resume: "live", from: "9-0@9", tip: "9-0@9" },
  );
  assert.equal(client.position, "9-0@9");
  await reconnect(world);
  assert.equal(asked(world), "9-0@9");
});

test("caught up, it resumes from there although the last entries were no events", async () => {
  const world = new World();
  const { client, told } = await world.open({ lastEventId: "0" }, { resume: "complete" });
  world.socket.say(event("6-0@6"));
  const data = { position: "8-0@8", replayed: 1 };
  world.socket.say({ event: "caught_up", session: "s1", data });
  assert.equal(client.position, "8-0@8");
  assert.deepEqual(told.caught_up, [{ session: "s1", ...data }]);
});

test("the last N are counted once: cut before the first event, it begins where it began", async () => {
  const world = new World();
  const { client } = await world.start({ lastEventId: "-10" });
  assert.equal(client.position, null);
  assert.equal(asked(world), "-10");
  world.socket.greet({ resume: "complete", from: "3-0@3" });
  await reconnect(world);
  assert.equal(asked(world), "3-0@3");
});

test("a moment is asked for again, since no entry has its position", async () => {
  const world = new World();
  const since = "2026-01-01T00:00:00Z";
  await world.open({ since }, { resume: "complete", from: "4-18446744073709551615" });
  await reconnect(world);
  assert.equal(asked(world), null);
  assert.equal(world.socket.url.searchParams.get("since"), since);
  world.socket.greet({ resume: "complete" });
  world.socket.say(event("6-0@6"));
  await reconnect(world);
  assert.equal(asked(world), "6-0@6");
  assert.equal(world.socket.url.searchParams.get("since"), null);
});

test("a position that was given is where it stands before anything has come", async () => {
  const world = new World();
  const { client } = await world.open({ lastEventId: "3-0" }, { resume: "complete" });
  assert.equal(client.position, "3-0");
  await reconnect(world);
  assert.equal(asked(world), "3-0");
});

test("the ordinal is taken on when the same place is told with it", async () => {
  const world = new World();
  const { client } = await world.open({ lastEventId: "6-0" }, { resume: "complete" });
  const data = { position: "6-0@6", replayed: 0 };
  world.socket.say({ event: "caught_up", session: "s1", data });
  assert.equal(client.position, "6-0@6");
  world.socket.say({ event: "caught_up", session: "s1", data: { position: "6-0" } });
  assert.equal(client.position, "6-0@6");
});

test("a reset begins another history, whose smaller ids are new", async () => {
  const world = new World();
  const store = new EventStore();
  const { client, told } = await world.open({ store });
  world.socket.say(event("6-0@6"));
  const data = { from: "0-0@0", tip: "0-0@0" };
  world.socket.say({ event: "reset", session: "s1", data });
  assert.equal(client.position, "0-0@0");
  assert.equal(store.size, 0);
  world.socket.say(event("2-0@1"));
  assert.deepEqual(ids(told.event), ["6-0@6", "2-0@1"]);
  assert.deepEqual(told.reset, [{ session: "s1", ...data }]);
  await reconnect(world);
  assert.equal(asked(world), "2-0@1");
});

test("a reset ends the account of gaps", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.say(gap());
  world.socket.say({
    event: "reset",
    session: "s1",
    data: { from: "0-0@0", tip: "0-0@0" },
  });
  await reconnect(world);
  world.socket.greet({ resume: "gap" });
  world.socket.say(gap());
  assert.equal(told.gap[1].replaces, false);
});

test("a resume that says reset is the same as a reset", async () => {
  const world = new World();
  const { client, told } = await world.open();
  world.socket.say(event("6-0@6"));
  await reconnect(world);
  world.socket.greet({ resume: "reset", from: "0-0@0", tip: "2-0@1" });
  assert.equal(client.position, "0-0@0");
  assert.deepEqual(told.reset, [{ session: "s1", from: "0-0@0", tip: "2-0@1" }]);
  world.socket.say(event("2-0@1"));
  assert.equal(told.event.length, 2);
});

test("a gap is told with its size", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.say(gap());
  const { data } = gap();
  assert.deepEqual(told.gap, [{ session: "s1", ...data, replaces: false }]);
});

test("a gap that is told again replaces the one of the lost connection", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.say(gap({ lost: 3 }));
  await reconnect(world);
  world.socket.greet({ resume: "gap" });
  world.socket.say(gap({ lost: 4 }));
  world.socket.say(gap({ lost: 1 }));
  assert.deepEqual(
    told.gap.map(({ lost, replaces }) => [lost, replaces]),
    [
      [3, false],
      [4, true],
      [1, false],
    ],
  );
});

test("a gap after an event was handed on is another one", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.say(gap());
  world.socket.say(event("6-0@6"));
  await reconnect(world);
  world.socket.greet({ resume: "gap" });
  world.socket.say(gap());
  assert.equal(told.gap[1].replaces, false);
});

test("a skipped entry is no event but moves the position", async () => {
  const world = new World();
  const { client, told } = await world.open();
  const data = { reason: "no_event", message: "the field event is missing or empty" };
  world.socket.say({ id: "6-0@6", seq: 6, session: "s1", event: "skipped", data });
  assert.deepEqual(told.event, []);
  assert.deepEqual(told.skipped, [{ id: "6-0@6", seq: 6, session: "s1", ...data }]);
  assert.equal(client.position, "6-0@6");
});

test("an event that a publisher has named like a frame of the broker is an event", async () => {
  const world = new World();
  const { client, told } = await world.open();
  world.socket.say(event("6-0@6", { event: "skipped", data: { reason: "mine" } }));
  world.socket.say(event("7-0@7", { event: "closing", data: { code: 4509 } }));
  world.socket.say(event("8-0@8", { event: "welcome", data: null }));
  assert.deepEqual(ids(told.event), ["6-0@6", "7-0@7", "8-0@8"]);
  assert.deepEqual([told.skipped, told.closing], [[], []]);
  world.socket.end(1006);
  assert.equal(client.state, "reconnecting");
});

test("what is no frame ends the connection, and the next one resumes", async () => {
  const world = new World();
  for (const text of ["{", "null", '{"id":"1-0"}', '{"event":"x","id":"first"}']) {
    const { client, told } = await world.open();
    world.socket.say(text);
    assert.equal(client.state, "reconnecting", text);
    assert.equal(told.state.at(-1).reason, "bad_frame");
    assert.equal(client.position, "5-0@5");
  }
});

test("what is no text is no frame", async () => {
  const world = new World();
  const { client } = await world.open();
  world.socket.onmessage({ data: new ArrayBuffer(2) });
  assert.equal(client.state, "open");
});

test("every frame is shown as it came, also what is not handed on", async () => {
  const world = new World();
  const { told } = await world.open();
  world.socket.say(event("6-0"));
  world.socket.say(event("6-0"));
  world.socket.say({ event: "heartbeat" });
  assert.deepEqual(
    told.frame.map((frame) => frame.event),
    ["welcome", "subscribed", "note", "note", "heartbeat"],
  );
});

test("a store gets every event, and one that throws harms nothing", async () => {
  const world = new World();
  const store = new EventStore();
  const { client, told } = await world.open({ store });
  store.subscribe(() => {
    throw new Error("of the page");
  });
  world.socket.say(event("6-0@6"));
  assert.deepEqual(ids(store), ["6-0@6"]);
  assert.deepEqual(ids(told.event), ["6-0@6"]);
  assert.equal(client.position, "6-0@6");
  assert.equal(told.error[0].cause.message, "of the page");
});
