import assert from "node:assert/strict";
import { test } from "node:test";

import { EventStore } from "../../broker/web/client.js";
import { FakeClock, event, ids } from "./fakes.mjs";

const filled = (options, ...given) => {
  const store = new EventStore(options);
  for (const id of given) store.add(event(id));
  return store;
};

test("events are in stream order whatever the order they came in", () => {
  const store = filled(
    {},
    "5-0",
    "2-0",
    "10-0",
    "2-1",
    "9007199254740993-0",
    "9007199254740992-0",
  );
  assert.deepEqual(ids(store), [
    "2-0",
    "2-1",
    "5-0",
    "10-0",
    "9007199254740992-0",
    "9007199254740993-0",
  ]);
});

test("an event is there once, with or without its ordinal", () => {
  const store = filled({}, "1-0", "2-0@2", "3-0");
  assert.equal(store.add(event("2-0")), false);
  assert.equal(store.add(event("3-0@3")), false);
  assert.equal(store.size, 3);
});

test("a full store lets go of the oldest and counts it", () => {
  const store = filled({ maxEvents: 2 }, "1-0", "2-0", "3-0");
  assert.deepEqual(ids(store), ["2-0", "3-0"]);
  assert.equal(store.dropped, 1);
  assert.equal(store.last.id, "3-0");
});

test("a full store still knows order and what it has", () => {
  const store = filled({ maxEvents: 3 }, "1-0", "2-0", "5-0", "6-0", "7-0");
  assert.equal(store.add(event("6-0")), false);
  assert.equal(store.add(event("6-1")), true);
  assert.deepEqual(ids(store), ["6-0", "6-1", "7-0"]);
});

test("an emptied store takes everything again", () => {
  const store = filled({ maxEvents: 1 }, "5-0", "6-0");
  store.clear();
  assert.deepEqual([store.size, store.dropped, store.last], [0, 0, undefined]);
  assert.equal(store.add(event("6-0")), true);
});

test("without an option the newest thousand are kept", () => {
  const store = filled({}, ...Array.from({ length: 1001 }, (_, n) => `${n}-0`));
  assert.deepEqual([store.size, store.dropped], [1000, 1]);
});

test("a full store does not take what is older than all it has", () => {
  const store = filled({ maxEvents: 2 }, "2-0", "3-0");
  assert.equal(store.add(event("1-0")), false);
  assert.deepEqual(ids(store), ["2-0", "3-0"]);
});

test("what is no event is refused", () => {
  assert.throws(() => new EventStore().add({ event: "heartbeat" }), TypeError);
  assert.throws(() => new EventStore({ maxEvents: 0 }), TypeError);
});

test("a snapshot is the same until something changes, and is never changed itself", () => {
  const store = filled({}, "1-0");
  const before = store.getSnapshot();
  assert.equal(store.getSnapshot(), before);
  store.add(event("1-0"));
  assert.equal(store.getSnapshot(), before);
  store.add(event("2-0"));
  assert.deepEqual(ids(before), ["1-0"]);
  assert.deepEqual(ids(store.getSnapshot()), ["1-0", "2-0"]);
  assert.ok(Object.isFrozen(before));
});

test("subscribers are told of each change until they leave", () => {
  const { subscribe, getSnapshot, add, clear } = bound(new EventStore());
  const sizes = [];
  const leave = subscribe(() => sizes.push(getSnapshot().length));
  add(event("1-0"));
  add(event("1-0"));
  add(event("2-0"));
  clear();
  leave();
  add(event("3-0"));
  assert.deepEqual(sizes, [1, 2, 0]);
});

test("the same function may subscribe twice and leave once", () => {
  const store = new EventStore();
  let calls = 0;
  const onChange = () => {
    calls += 1;
  };
  const leave = store.subscribe(onChange);
  store.subscribe(onChange);
  leave();
  store.add(event("1-0"));
  assert.equal(calls, 1);
});

test("with notifyMs many changes are told once", async () => {
  const clock = new FakeClock();
  const store = new EventStore({ notifyMs: 50, platform: clock });
  const sizes = [];
  store.subscribe(() => sizes.push(store.size));
  store.add(event("1-0"));
  store.add(event("2-0"));
  await clock.advance(49);
  assert.deepEqual(sizes, []);
  await clock.advance(1);
  store.add(event("3-0"));
  await clock.advance(50);
  assert.deepEqual(sizes, [2, 3]);
});

/** React calls what it is given without an object. */
function bound(store) {
  const { subscribe, getSnapshot } = store;
  return { subscribe, getSnapshot, add: (e) => store.add(e), clear: () => store.clear() };
}
