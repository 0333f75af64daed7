import assert from "node:assert/strict";
import { test } from "node:test";

import {
  SseParser,
  backoffMs,
  comparePositions,
  judgeCode,
  parsePosition,
} from "../../broker/web/client.js";
import { resolvePlatform } from "../../broker/web/client/platform.js";

// Positions.

test("a position is taken apart without losing a digit", () => {
  assert.deepEqual(parsePosition("18446744073709551615-9007199254740993@7"), {
    ms: 18446744073709551615n,
    n: 9007199254740993n,
    seq: 7n,
  });
  assert.equal(parsePosition("1-2").seq, null);
});

test("what is no position is null", () => {
  for (const text of ["0", "-100", "", "1-", "1-2@", "1-2@x", " 1-2", null, 12]) {
    assert.equal(parsePosition(text), null);
  }
});

test("positions are compared as numbers of 64 bits, milliseconds first", () => {
  assert.equal(comparePositions("9007199254740993-0", "9007199254740992-9"), 1);
  assert.equal(comparePositions("5-9", "5-10"), -1);
  assert.equal(comparePositions("5-1@3", "5-1"), 0);
  assert.throws(() => comparePositions("5-1", "0"), /a position is/);
  assert.throws(() => comparePositions("0", "5-1"), /a position is/);
});

// Back-off.

test("a wait lies between nothing and a bound that doubles", () => {
  const bounds = { minMs: 500, maxMs: 30_000 };
  const most = [0, 1, 2, 5, 6, 1000].map((n) => backoffMs(n, bounds, () => 1));
  assert.deepEqual(most, [500, 1000, 2000, 16_000, 30_000, 30_000]);
  assert.equal(
    backoffMs(9, bounds, () => 0),
    0,
  );
  assert.equal(
    backoffMs(1, bounds, () => 0.25),
    250,
  );
});

// Close codes.

test("codes from 4000 to 4499, cuts and unknown codes mean to come back", () => {
  for (const code of [1001, 1005, 1006, 1008, 1011, 1012, 3000, 4000, 4003, 4499]) {
    assert.equal(judgeCode(code), "retry");
  }
});

test("codes from 4500, and what answers a broken protocol, mean to stay away", () => {
  for (const code of [1000, 1002, 1003, 1007, 1009, 4500, 4503, 4509, 4513, 4999]) {
    assert.equal(judgeCode(code), "stop");
  }
});

test("a token that is refused means to come back with another one", () => {
  for (const code of [4501, 4510, 401, 204]) assert.equal(judgeCode(code), "renew");
});

test("statuses of an event stream are judged like close codes", () => {
  for (const status of [408, 425, 429, 500, 503])
    assert.equal(judgeCode(status), "retry");
  for (const status of [400, 403, 404, 409, 426]) assert.equal(judgeCode(status), "stop");
});

// Server-Sent Events.

const parse = (...pieces) => {
  const parser = new SseParser();
  return pieces.flatMap((piece) => parser.feed(piece));
};

test("a message ends at the empty line and not before", () => {
  const parser = new SseParser();
  assert.deepEqual(parser.feed("id: 1-0\ndata: {}\n"), []);
  assert.deepEqual(parser.feed("\n"), [{ id: "1-0", data: "{}" }]);
});

test("a stream means the same however it is cut", () => {
  const text = "id: 1-0\r\ndata: ab\r\ndata: c\r\n\r\n: note\rdata:d\r\rdata\n\n";
  const whole = parse(text);
  assert.deepEqual(whole, [
    { id: "1-0", data: "ab\nc" },
    { id: "1-0", data: "d" },
    { id: "1-0", data: "" },
  ]);
  for (let at = 0; at <= text.length; at += 1) {
    assert.deepEqual(parse(text.slice(0, at), text.slice(at)), whole);
  }
  assert.deepEqual(parse(...text), whole);
});

test("comments, unknown fields and empty blocks are no messages", () => {
  assert.deepEqual(parse(": heartbeat\n\nevent: x\n\nfoo: bar\n\n\n"), []);
});

test("one space after the colon is no part of the value, a second one is", () => {
  assert.deepEqual(parse("data:  x\n\n"), [{ id: null, data: " x" }]);
});

test("an id with a null character does not count", () => {
  assert.deepEqual(parse("id: 1-0\ndata\n\nid: 2\0\ndata\n\n")[1], {
    id: "1-0",
    data: "",
  });
});

test("retry is a whole number of milliseconds, anything else is ignored", () => {
  const parser = new SseParser();
  parser.feed("retry: soon\n\n");
  assert.equal(parser.retryMs, null);
  parser.feed("retry: 4200\n\n");
  assert.equal(parser.retryMs, 4200);
});

// The surroundings.

test("what a runtime has not is null, what it has can be called", () => {
  const platform = resolvePlatform({ random: () => 7, fetch: undefined });
  assert.deepEqual([platform.document, platform.location], [null, null]);
  assert.equal(typeof platform.fetch, "function");
  assert.ok(platform.now() > 1_600_000_000_000);
  assert.equal(platform.random(), 7);
  const timer = platform.setTimeout(() => {}, 1000);
  platform.clearTimeout(timer);
});
