import assert from "node:assert/strict";
import { test } from "node:test";

import { buildUrl, isSessionName } from "../../broker/web/client.js";

const url = (options) =>
  buildUrl({ session: "s1", page: "http://page.test/a/b?c#d", ...options });

test("without a url the page's origin is asked", () => {
  assert.equal(url({}), "ws://page.test/v1/ws/s1");
});

test("a page that came by https connects by wss", () => {
  assert.equal(url({ page: "https://page.test/x" }), "wss://page.test/v1/ws/s1");
});

test("the scheme of the target decides over that of the page", () => {
  assert.equal(url({ url: "https://b.test" }), "wss://b.test/v1/ws/s1");
  assert.equal(
    url({ url: "wss://b.test", transport: "sse" }),
    "https://b.test/v1/sse/s1",
  );
  assert.equal(url({ url: "ws://b.test", transport: "sse" }), "http://b.test/v1/sse/s1");
});

test("an insecure target on a secure page is made secure, for the browser refuses it", () => {
  const page = "https://page.test/";
  assert.equal(url({ page, url: "http://b.test" }), "wss://b.test/v1/ws/s1");
});

test("this machine may stay insecure on a secure page", () => {
  const page = "https://page.test/";
  assert.equal(
    url({ page, url: "http://localhost:8080" }),
    "ws://localhost:8080/v1/ws/s1",
  );
  assert.equal(url({ page, url: "http://127.0.0.1:80" }), "ws://127.0.0.1/v1/ws/s1");
  assert.equal(url({ page, url: "http://[::1]:8080" }), "ws://[::1]:8080/v1/ws/s1");
});

test("a path prefix stays in front", () => {
  assert.equal(url({ url: "http://b.test/events/" }), "ws://b.test/events/v1/ws/s1");
  assert.equal(url({ url: "/events" }), "ws://page.test/events/v1/ws/s1");
});

test("a host without a scheme takes that of the page", () => {
  assert.equal(url({ url: "localhost:8080" }), "ws://localhost:8080/v1/ws/s1");
  assert.equal(
    url({ url: "b.test/x", page: "https://p.test" }),
    "wss://b.test/x/v1/ws/s1",
  );
});

test("without a page a host without a scheme is insecure", () => {
  assert.equal(buildUrl({ session: "s1", url: "b.test:80" }), "ws://b.test/v1/ws/s1");
});

test("an address of IPv6 stands in brackets, given so or not", () => {
  assert.equal(
    url({ url: "http://[2001:db8::1]:8080" }),
    "ws://[2001:db8::1]:8080/v1/ws/s1",
  );
  assert.equal(url({ url: "2001:db8::1" }), "ws://[2001:db8::1]/v1/ws/s1");
});

test("characters of a session that mean something in a URL are escaped", () => {
  assert.equal(url({ session: "a:b@c.d-e_f" }), "ws://page.test/v1/ws/a%3Ab%40c.d-e_f");
});

test("every option has its name in the query", () => {
  const options = {
    lastEventId: "12-0@3",
    consumer: "me",
    ackMode: "auto",
    overflow: "latest",
    presence: true,
    takeover: true,
    user: "a b",
  };
  assert.equal(
    new URL(url(options)).search,
    "?last_event_id=12-0%403&consumer=me&ack=auto&overflow=latest&presence=1&takeover=1&user=a+b",
  );
});

test("what is off or not given is not in the query", () => {
  const options = { presence: false, takeover: false, user: undefined, consumer: "" };
  assert.equal(new URL(url(options)).search, "");
});

test("a query of the target is kept", () => {
  assert.equal(
    url({ url: "http://b.test/?tenant=7", since: "2026-01-01T00:00:00Z" }),
    "ws://b.test/v1/ws/s1?tenant=7&since=2026-01-01T00%3A00%3A00Z",
  );
});

test("secrets in the URL are refused", () => {
  assert.throws(() => url({ url: "http://b.test/?token=x" }), TypeError);
  assert.throws(() => url({ url: "http://ada@b.test" }), TypeError);
  assert.throws(() => url({ url: "http://:pw@b.test" }), TypeError);
});

test("what is no URL is refused in words", () => {
  assert.throws(() => url({ url: "http://" }), /must look like/);
  assert.throws(() => url({ url: "ftp://b.test" }), /begins with http/);
  assert.throws(() => buildUrl({ session: "s1" }), /must look like/);
});

test("names of sessions are those that the broker takes", () => {
  assert.ok(isSessionName("a".repeat(128)));
  assert.ok(isSessionName("0.a_b:c@d-e"));
  assert.ok(!isSessionName("a".repeat(129)));
  assert.ok(!isSessionName(".a"));
  assert.ok(!isSessionName("a/b"));
  assert.ok(!isSessionName(""));
  assert.ok(!isSessionName(7));
});
