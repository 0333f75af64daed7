import assert from "node:assert/strict";
import { inspect } from "node:util";
import { test } from "node:test";

import { EventLogger } from "../../broker/web/client.js";
import { World, settle } from "./fakes.mjs";

class Sink {
  lines = [];
  error = (...said) => this.lines.push(["error", ...said]);
  warn = (...said) => this.lines.push(["warn", ...said]);
  info = (...said) => this.lines.push(["info", ...said]);
  debug = (...said) => this.lines.push(["debug", ...said]);

  get text() {
    return inspect(this.lines, { depth: 20 });
  }
}

const JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl";

test("nothing is written unless a level is given", () => {
  const sink = new Sink();
  new EventLogger({ sink }).error("x");
  assert.deepEqual(sink.lines, []);
});

test("a level lets through itself and what is worse", () => {
  const sink = new Sink();
  const logger = new EventLogger({ level: "warn", sink });
  for (const level of ["debug", "info", "warn", "error"]) logger[level](level);
  assert.deepEqual(sink.lines, [
    ["warn", "[broker] warn"],
    ["error", "[broker] error"],
  ]);
  logger.level = "debug";
  assert.equal(logger.level, "debug");
  logger.debug("now");
  assert.equal(sink.lines.length, 3);
  assert.throws(() => {
    logger.level = "loud";
  }, TypeError);
});

test("tokens are kept out of names, texts, lists and errors", () => {
  const sink = new Sink();
  const logger = new EventLogger({ level: "debug", sink });
  logger.info(`with ${JWT} in it`, {
    token: "plain-secret-1",
    deep: [{ api_key: "plain-secret-2", Authorization: `Bearer ${JWT}` }],
    protocols: ["broker.v1", "bearer.plain-secret-3"],
    header: "Bearer plain-secret-4",
    key: "bk_AbCdEfGhIjKlMnOp",
    error: new Error(`refused ${JWT}`),
  });
  assert.doesNotMatch(sink.text, /plain-secret|eyJ|bk_Ab/);
  assert.match(sink.text, /Bearer \[redacted\]/);
  assert.match(sink.text, /Error: refused \[redacted\]/);
});

test("a token that looks like nothing is kept out once it is known", () => {
  const sink = new Sink();
  const logger = new EventLogger({ level: "debug", sink });
  logger.protect("hunter2");
  logger.protect("");
  logger.info("say hunter2", { note: "hunter2hunter2" });
  assert.doesNotMatch(sink.text, /hunter2/);
  assert.equal(sink.lines[0][1], "[broker] say [redacted]");
});

test("what is no secret can be read", () => {
  const sink = new Sink();
  new EventLogger({ level: "info", sink }).info("x", {
    tokens: 7,
    event: "token_stream",
  });
  assert.deepEqual(sink.lines[0][2], { tokens: 7, event: "token_stream" });
});

test("long and deep things are cut, after secrets were taken out", () => {
  const sink = new Sink();
  const logger = new EventLogger({ level: "info", sink });
  const loop = { text: `${"x".repeat(480)} ${JWT} ${"x".repeat(480)}`, list: [] };
  loop.loop = loop;
  loop.list.push(loop.list);
  logger.info("x", loop);
  assert.doesNotMatch(sink.text, /eyJ/);
  assert.equal(sink.lines[0][2].text.length, 503);
});

test("a client at work writes no token, of whatever kind", async () => {
  const sink = new Sink();
  const world = new World();
  const logger = new EventLogger({ level: "debug", sink });
  const tokens = ["first-canary", "second-canary"];
  const tokenProvider = () => tokens.shift();
  const { client } = await world.start({ logger, tokenProvider });
  world.socket.greet();
  world.socket.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  await settle();
  world.socket.say({ event: "error", data: { code: "x", message: "first-canary" } });
  client.close();
  world.socket.end(1000);
  for (const said of ["connecting", "state", "frame", "say", "connection ended"]) {
    assert.match(sink.text, new RegExp(`\\[broker\\] ${said}`));
  }
  assert.doesNotMatch(sink.text, /canary/);
});
