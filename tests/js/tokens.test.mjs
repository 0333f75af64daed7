import assert from "node:assert/strict";
import { test } from "node:test";

import { World, closing, outcome, settle } from "./fakes.mjs";

const bearer = (world) => world.socket.protocols[1];
const last = (told) => told.state.at(-1);

/** A provider that gives what is in its list, and remembers why it was asked. */
class Provider {
  asked = [];

  constructor(...answers) {
    this.answers = answers;
  }

  give = async ({ reason }) => {
    this.asked.push(reason);
    const answer = this.answers.shift();
    if (answer instanceof Error) throw answer;
    return answer;
  };
}

async function refuse(world, code) {
  world.socket.say(closing({ code, reason: `c${code}`, retry: false }));
  world.socket.end(code);
  await world.clock.advance(250);
}

test("a provider is asked before the first connection", async () => {
  const world = new World();
  const provider = new Provider("t1");
  const { client } = await world.start({ tokenProvider: provider.give });
  assert.deepEqual(provider.asked, ["connect"]);
  assert.equal(bearer(world), "bearer.t1");
  assert.equal(client.state, "connecting");
});

test("a token that is given is used before the provider is asked", async () => {
  const world = new World();
  const provider = new Provider("t1");
  await world.start({ token: "t0", tokenProvider: provider.give });
  assert.equal(bearer(world), "bearer.t0");
  assert.deepEqual(provider.asked, []);
});

test("a token serves for every connection as long as it is good", async () => {
  const world = new World();
  const provider = new Provider("t1");
  await world.start({ tokenProvider: provider.give });
  world.socket.greet();
  world.socket.end();
  await world.clock.advance(250);
  assert.equal(bearer(world), "bearer.t1");
  assert.deepEqual(provider.asked, ["connect"]);
});

test("a token that will expire is replaced on the open connection", async () => {
  const world = new World();
  const provider = new Provider("t2");
  await world.open({ token: "t1", tokenProvider: provider.give });
  world.socket.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  await settle();
  assert.deepEqual(provider.asked, ["expiring"]);
  assert.deepEqual(world.socket.sent, [
    { cmd: "refresh", id: "command-1", data: { token: "t2" } },
  ]);
  world.socket.say({ event: "refreshed", data: { expires_at: 1, ref: "command-1" } });
  world.socket.end();
  await world.clock.advance(250);
  assert.equal(bearer(world), "bearer.t2");
});

test("a token that was replaced in place is asked for anew when that one has expired", async () => {
  const world = new World();
  const provider = new Provider("t2", "t3");
  await world.open({ token: "t1", tokenProvider: provider.give });
  world.socket.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  await settle();
  world.socket.say({ event: "refreshed", data: { expires_at: 1, ref: "command-1" } });
  await refuse(world, 4510);
  assert.deepEqual(provider.asked, ["expiring", "expired"]);
  assert.equal(bearer(world), "bearer.t3");
});

test("without a provider an expiry is told and nothing else", async () => {
  const world = new World();
  const { told } = await world.open({ token: "t1" });
  world.socket.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  await settle();
  assert.equal(told.token_expiring.length, 1);
  assert.deepEqual(told.error, []);
  assert.deepEqual(world.socket.sent, []);
});

test("a provider that fails for a connection that is gone is no error of the next", async () => {
  const world = new World();
  let fail;
  const tokenProvider = () => new Promise((_, reject) => (fail = reject));
  const { told } = await world.open({ token: "t1", tokenProvider });
  world.socket.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  world.socket.say(closing({ code: 4000, reason: "draining", retry: true, delay_ms: 0 }));
  world.socket.end(4000);
  await settle();
  fail(new Error("login is down"));
  await settle();
  assert.deepEqual(told.error, []);
});

test("a token that comes late is used on the connection that there is by then", async () => {
  const world = new World();
  let give;
  const tokenProvider = () => new Promise((resolve) => (give = resolve));
  await world.open({ token: "t1", tokenProvider });
  world.socket.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  world.socket.end();
  await world.clock.advance(250);
  assert.equal(bearer(world), "bearer.t1");
  world.socket.greet({ resume: "complete" });
  give("t2");
  await settle();
  assert.equal(world.socket.sent[0].data.token, "t2");
});

test("a refresh that is refused is an error, and the connection stays", async () => {
  const world = new World();
  const provider = new Provider("t2");
  const { client, told } = await world.open({
    token: "t1",
    tokenProvider: provider.give,
  });
  world.socket.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  await settle();
  const data = { code: "forbidden", message: "of another user", ref: "command-1" };
  world.socket.say({ event: "error", data });
  await settle();
  assert.equal(told.error[0].code, "forbidden");
  assert.equal(client.state, "open");
});

test("a provider that fails before the expiry is an error, and is asked again at the end", async () => {
  const world = new World();
  const provider = new Provider(new Error("login is down"), "t2");
  const { told } = await world.open({ token: "t1", tokenProvider: provider.give });
  world.socket.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  await settle();
  assert.equal(told.error[0].code, "token_provider");
  await refuse(world, 4510);
  assert.deepEqual(provider.asked, ["expiring", "expired"]);
  assert.equal(bearer(world), "bearer.t2");
});

test("a token that comes after its connection is gone is used by the next one", async () => {
  const world = new World();
  let give;
  const tokenProvider = () => new Promise((resolve) => (give = resolve));
  await world.open({ token: "t1", tokenProvider });
  world.socket.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  world.socket.end(4510, "token_expired");
  give("t2");
  await world.clock.advance(250);
  assert.equal(world.sockets.length, 2);
  assert.equal(bearer(world), "bearer.t2");
  assert.deepEqual(world.socket.sent, []);
});

for (const [code, reason] of [
  [4510, "expired"],
  [4501, "refused"],
]) {
  test(`code ${code} asks for another token and comes back with it`, async () => {
    const world = new World();
    const provider = new Provider("t2");
    const { client, told } = await world.open({
      token: "t1",
      tokenProvider: provider.give,
    });
    await refuse(world, code);
    assert.deepEqual(provider.asked, [reason]);
    assert.equal(bearer(world), "bearer.t2");
    assert.deepEqual(told.error, []);
    world.socket.greet({ resume: "complete" });
    assert.equal(client.state, "open");
  });

  test(`code ${code} is terminal without a provider`, async () => {
    const world = new World();
    const { client, told } = await world.open({ token: "t1" });
    await refuse(world, code);
    assert.equal(client.state, "closed");
    assert.equal(told.error[0].terminal, true);
    assert.equal(world.sockets.length, 1);
  });
}

test("a new token that is refused as well is the end", async () => {
  const world = new World();
  const provider = new Provider("t2", "t3");
  const { client } = await world.start({ token: "t1", tokenProvider: provider.give });
  await refuse(world, 4501);
  await refuse(world, 4501);
  assert.deepEqual(provider.asked, ["refused"]);
  assert.equal(client.state, "closed");
});

test("after it was let in, a later expiry may ask again", async () => {
  const world = new World();
  const provider = new Provider("t2", "t3");
  await world.open({ token: "t1", tokenProvider: provider.give });
  await refuse(world, 4510);
  world.socket.greet({ resume: "complete" });
  world.socket.say(closing({ code: 4510, reason: "token_expired", retry: false }));
  world.socket.end(4510);
  await world.clock.advance(500);
  assert.deepEqual(provider.asked, ["expired", "expired"]);
  assert.equal(bearer(world), "bearer.t3");
});

test("a provider that fails is asked again after a wait, without an error before the open", async () => {
  const world = new World();
  const provider = new Provider(new Error("network"), new Error("network"), "t1");
  const { told } = await world.start({ tokenProvider: provider.give });
  assert.equal(last(told).reason, "token_provider");
  assert.equal(last(told).retryInMs, 250);
  await world.clock.advance(250);
  assert.equal(last(told).retryInMs, 500);
  await world.clock.advance(500);
  assert.equal(bearer(world), "bearer.t1");
  assert.deepEqual(told.error, []);
});

test("after the first open a provider that fails is an error as well", async () => {
  const world = new World();
  const provider = new Provider(new Error("login is down"), "t2");
  const { client, told } = await world.open({
    token: "t1",
    tokenProvider: provider.give,
  });
  await refuse(world, 4510);
  assert.equal(told.error[0].code, "token_provider");
  assert.equal(told.error[0].cause.message, "login is down");
  assert.equal(client.state, "reconnecting");
});

test("whoever hears of that failure may close the client", async () => {
  const world = new World();
  const provider = new Provider(new Error("login is down"));
  const { client } = await world.open({ token: "t1", tokenProvider: provider.give });
  client.on("error", () => client.close());
  await refuse(world, 4510);
  assert.equal(client.state, "closed");
  assert.equal(world.clock.waiting, 0);
});

test("a provider that has no token closes the client", async () => {
  const world = new World();
  for (const answer of [null, undefined, ""]) {
    const { client, told } = await world.start({ tokenProvider: () => answer });
    assert.equal(client.state, "closed");
    assert.equal(last(told).reason, "no_token");
    assert.equal(told.error[0].terminal, true);
  }
  assert.equal(world.sockets.length, 0);
});

test("what cannot be a token closes the client, and is in no message", async () => {
  const world = new World();
  const { client, told } = await world.start({
    tokenProvider: () => "white space canary",
  });
  assert.equal(client.state, "closed");
  assert.doesNotMatch(told.error[0].message + told.error[0].cause, /canary/);
});

test("connecting again may ask again", async () => {
  const world = new World();
  const provider = new Provider("t2", "t3");
  const { client } = await world.start({ token: "t1", tokenProvider: provider.give });
  await refuse(world, 4501);
  await refuse(world, 4501);
  client.connect();
  await settle();
  await refuse(world, 4501);
  assert.deepEqual(provider.asked, ["refused", "refused"]);
  assert.equal(bearer(world), "bearer.t3");
});

test("a provider that fails after the client was closed changes nothing", async () => {
  const world = new World();
  let fail;
  const tokenProvider = () => new Promise((_, reject) => (fail = reject));
  const { client } = await world.start({ tokenProvider });
  client.close();
  fail(new Error("login is down"));
  await settle();
  assert.equal(client.state, "closed");
});

test("a provider that answers after the client was closed starts nothing", async () => {
  const world = new World();
  let give;
  const tokenProvider = () => new Promise((resolve) => (give = resolve));
  const { client } = await world.start({ tokenProvider });
  client.close();
  give("t1");
  await settle();
  assert.equal(world.sockets.length, 0);
});

test("two reasons at once are one question", async () => {
  const world = new World();
  const asked = [];
  let give;
  const tokenProvider = ({ reason }) => {
    asked.push(reason);
    return new Promise((resolve) => (give = resolve));
  };
  await world.open({ token: "t1", tokenProvider });
  world.socket.say({ event: "token_expiring", data: { expires_in_s: 60 } });
  await settle();
  await refuse(world, 4510);
  assert.deepEqual(asked, ["expiring"]);
  give("t2");
  await settle();
  assert.equal(bearer(world), "bearer.t2");
});

test("a page may give a new token itself", async () => {
  const world = new World();
  const { client } = await world.open({ token: "t1" });
  const done = client.refresh("t2");
  assert.equal(world.socket.sent[0].data.token, "t2");
  world.socket.say({ event: "refreshed", data: { expires_at: 1, ref: "command-1" } });
  assert.equal(await outcome(done), undefined);
  await client.refresh("t2");
  assert.equal(world.socket.sent.length, 1);
  await assert.rejects(client.refresh("white space"), TypeError);
});

test("a token given while there is no connection is used by the next one", async () => {
  const world = new World();
  const { client } = await world.open({ token: "t1" });
  world.socket.end();
  await client.refresh("t2");
  await world.clock.advance(250);
  assert.equal(bearer(world), "bearer.t2");
});
