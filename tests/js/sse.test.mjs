import assert from "node:assert/strict";
import { test } from "node:test";

import { World, closing, event, ids, settle, states } from "./fakes.mjs";

const SSE = { transports: ["sse"] };
const last = (told) => told.state.at(-1);

/** A client whose event stream is open. */
async function open(world, options = {}, subscribedData = {}) {
  const started = await world.start({ ...SSE, ...options });
  world.response.greet(subscribedData);
  await settle();
  return started;
}

test("an event stream is asked for with the token as a header", async () => {
  const world = new World();
  await world.start({ ...SSE, token: "t1", lastEventId: "-5", user: "ada" });
  assert.equal(world.response.url.href, "http://broker.test/v1/sse/s1?user=ada");
  assert.deepEqual(world.response.headers, {
    Accept: "text/event-stream",
    Authorization: "Bearer t1",
    "Last-Event-ID": "-5",
  });
});

test("without a token and a position there is no header for them", async () => {
  const world = new World();
  await world.start(SSE);
  assert.deepEqual(world.response.headers, { Accept: "text/event-stream" });
});

test("events come in order, whatever the pieces they come in", async () => {
  const world = new World();
  const { client, told } = await open(world);
  const text = `id: 6-0@6\r\ndata: ${JSON.stringify(event("6-0@6", { data: "ä€" }))}\r\n\r\n`;
  for (const byte of new TextEncoder().encode(text)) world.response.writeBytes([byte]);
  world.response.say(event("7-0@7"));
  await settle();
  assert.deepEqual(ids(told.event), ["6-0@6", "7-0@7"]);
  assert.equal(told.event[0].data, "ä€");
  assert.equal(client.transport, "sse");
  assert.deepEqual(states(told), ["connecting", "open"]);
});

test("a stream that ends is resumed by the header", async () => {
  const world = new World();
  const { told } = await open(world);
  world.response.say(event("6-0@6"));
  await settle();
  world.response.end();
  await settle();
  assert.equal(last(told).state, "reconnecting");
  await world.clock.advance(250);
  assert.equal(world.response.headers["Last-Event-ID"], "6-0@6");
});

test("to another host the position goes into the URL: a header would be asked about first", async () => {
  const world = new World({ location: { href: "http://page.test/" } });
  await world.start({ ...SSE, lastEventId: "6-0@6" });
  assert.equal(world.response.headers["Last-Event-ID"], undefined);
  assert.equal(world.response.url.searchParams.get("last_event_id"), "6-0@6");
});

test("to the page's own host the header is used", async () => {
  const world = new World({ location: { href: "http://broker.test/page" } });
  await world.start({ ...SSE, lastEventId: "6-0@6" });
  assert.equal(world.response.headers["Last-Event-ID"], "6-0@6");
});

test("a retry with the end of the stream is the wait that the server wants", async () => {
  const world = new World();
  const { told } = await world.start(SSE);
  world.response.open();
  world.response.write("retry: 4200\n\n");
  await settle();
  world.response.end();
  await settle();
  assert.equal(last(told).retryInMs, 4200);
});

test("a status that passes is tried again after the time it names and a part more", async () => {
  const world = new World();
  const { told } = await world.start(SSE);
  world.response.refuse(503, { "Retry-After": "4" }, { error: { code: "memory" } });
  await settle();
  assert.equal(last(told).retryInMs, 5000);
  assert.deepEqual([last(told).code, last(told).reason], [503, "memory"]);
});

for (const status of [400, 403, 404, 409]) {
  test(`status ${status} closes for good`, async () => {
    const world = new World();
    const { client, told } = await world.start(SSE);
    world.response.refuse(status, {}, { error: { code: "because" } });
    await settle();
    assert.equal(client.state, "closed");
    assert.deepEqual([last(told).code, last(told).reason], [status, "because"]);
    assert.equal(told.error[0].terminal, true);
  });
}

test("status 204 closes for good where nobody has another token", async () => {
  const world = new World();
  const { client, told } = await world.start(SSE);
  world.response.refuse(204);
  await settle();
  assert.equal(client.state, "closed");
  assert.equal(last(told).reason, "http_204");
});

test("status 204 may be an expired token, so a provider is asked once", async () => {
  const world = new World();
  const asked = [];
  const tokenProvider = ({ reason }) => `t${asked.push(reason)}`;
  const { client } = await world.start({ ...SSE, tokenProvider });
  world.response.refuse(204);
  await settle();
  await world.clock.advance(250);
  assert.deepEqual(asked, ["connect", "refused"]);
  assert.equal(world.response.headers.Authorization, "Bearer t2");
  world.response.refuse(204);
  await settle();
  assert.equal(client.state, "closed");
});

test("the login page of a proxy is no event stream", async () => {
  const world = new World();
  const { told } = await world.start(SSE);
  world.response.open("text/html");
  await settle();
  assert.equal(last(told).state, "reconnecting");
  assert.equal(world.response.isAborted, true);
});

test("a network that fails is a failed attempt", async () => {
  const world = new World();
  const { told } = await world.start(SSE);
  world.response.fail();
  await settle();
  assert.deepEqual([last(told).state, last(told).code], ["reconnecting", 1006]);
});

test("closing says in the stream what a close code says", async () => {
  const world = new World();
  const { client, told } = await open(world);
  world.response.say(closing({ code: 4509, reason: "session_evicted", retry: false }));
  await settle();
  world.response.end();
  await settle();
  assert.equal(client.state, "closed");
  assert.equal(last(told).code, 4509);
});

test("comments are signs of life, silence is death", async () => {
  const world = new World();
  const { client, told } = await open(world);
  await world.clock.advance(60_000);
  world.response.write(": heartbeat\n\n");
  await world.clock.advance(60_000);
  assert.equal(client.state, "open");
  await world.clock.advance(5000);
  assert.equal(last(told).reason, "silent");
  assert.equal(world.responses[0].isAborted, true);
});

test("a stream cannot be asked, so after a long sleep a second without a sign is enough", async () => {
  const world = new World();
  const { told } = await open(world);
  await world.clock.freeze(3_600_000);
  await world.clock.advance(1000);
  assert.equal(last(told).reason, "unanswered");
});

test("a page that comes to the front gives a stream that was silent for long a second", async () => {
  const world = new World();
  const { told } = await open(world);
  world.document.visibilityState = "hidden";
  await world.clock.advance(40_000);
  world.document.become("visible");
  await world.clock.advance(1000);
  assert.equal(last(told).reason, "unanswered");
});

test("a stream that has spoken lately is not doubted after a short sleep", async () => {
  const world = new World();
  const { client } = await open(world);
  await world.clock.freeze(20_000);
  world.document.become("visible");
  await world.clock.advance(10_000);
  assert.equal(client.state, "open");
});

test("commands are refused: a stream takes none", async () => {
  const world = new World();
  const { client } = await open(world, { consumer: "me" });
  await assert.rejects(client.send("x"), { code: "no_upstream", retry: false });
  await assert.rejects(client.ack(), { code: "no_upstream" });
});

test("where there will never be a WebSocket, commands are refused at once", async () => {
  const world = new World({ WebSocket: null, WebSocketStream: null });
  const { client } = await world.start({ transports: ["websocket", "sse"] });
  assert.equal(world.responses.length, 1);
  await assert.rejects(client.send("x"), { code: "no_upstream" });
});

test("closing ends the request", async () => {
  const world = new World();
  const { client } = await open(world);
  client.close();
  assert.equal(client.state, "closed");
  assert.equal(world.response.isAborted, true);
  assert.equal(world.clock.waiting, 0);
});

test("a new token for a stream is used by the next one, without asking again", async () => {
  const world = new World();
  const asked = [];
  const tokenProvider = ({ reason }) => `t${asked.push(reason)}`;
  await open(world, { tokenProvider });
  world.response.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  await settle();
  world.response.say(closing({ code: 4510, reason: "token_expired", retry: false }));
  await settle();
  world.response.end();
  await world.clock.advance(250);
  assert.deepEqual(asked, ["connect", "expiring"]);
  assert.equal(world.response.headers.Authorization, "Bearer t2");
});
