// What the client takes from a browser, under the control of a test: a clock that stands
// still until it is told to go on, a page, and connections whose other end the test holds.

import { Client } from "../../broker/web/client.js";
import { FakeResponse, FakeWebSocket, FakeWebSocketStream } from "./connections.mjs";

export * from "./frames.mjs";

/** Lets everything run that waits for nothing but its turn. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

export class FakeClock {
  now = 1_700_000_000_000;
  #timers = new Map();
  #next = 1;

  setTimeout = (callback, delayMs) => {
    const id = this.#next++;
    this.#timers.set(id, { callback, at: this.now + delayMs });
    return id;
  };

  clearTimeout = (id) => {
    this.#timers.delete(id);
  };

  /** How many timers wait. */
  get waiting() {
    return this.#timers.size;
  }

  /** Goes on by so many milliseconds; each timer runs at its time. */
  async advance(ms) {
    const end = this.now + ms;
    for (;;) {
      await settle();
      const due = this.#earliest();
      if (due === undefined || due[1].at > end) break;
      this.now = Math.max(this.now, due[1].at);
      this.#timers.delete(due[0]);
      due[1].callback();
    }
    this.now = end;
    await settle();
  }

  /** So much time passes while no timer may run; then those that are due do. */
  async freeze(ms) {
    this.now += ms;
    await this.advance(0);
  }

  #earliest() {
    return [...this.#timers].sort((a, b) => a[1].at - b[1].at || a[0] - b[0])[0];
  }
}

export class FakeDocument extends EventTarget {
  visibilityState = "visible";

  become(visibilityState) {
    this.visibilityState = visibilityState;
    this.dispatchEvent(new Event("visibilitychange"));
  }
}

/** Everything around a client. */
export class World {
  clock = new FakeClock();
  sockets = [];
  streams = [];
  responses = [];
  complaints = [];
  /** By how much the page's clock is off that by which timers run. */
  skewMs = 0;
  /** What `Math.random` would have given. */
  luck = 0.5;
  document = new FakeDocument();
  window = new EventTarget();
  navigator = { onLine: true };
  #ids = 0;

  constructor(overrides = {}) {
    const world = this;
    class WebSocket extends FakeWebSocket {
      constructor(...given) {
        super(...given);
        world.sockets.push(this);
      }
    }
    class WebSocketStream extends FakeWebSocketStream {
      constructor(...given) {
        super(...given);
        world.streams.push(this);
      }
    }
    this.platform = {
      WebSocket,
      WebSocketStream,
      fetch: (url, init) => {
        this.responses.push(new FakeResponse(url, init));
        return this.responses.at(-1).promise;
      },
      setTimeout: this.clock.setTimeout,
      clearTimeout: this.clock.clearTimeout,
      now: () => this.clock.now + this.skewMs,
      random: () => this.luck,
      randomId: () => `command-${++this.#ids}`,
      document: this.document,
      window: this.window,
      navigator: this.navigator,
      location: null,
      console: { error: (...said) => this.complaints.push(said) },
      ...overrides,
    };
  }

  /** The newest connection of each kind. */
  get socket() {
    return this.sockets.at(-1);
  }

  get stream() {
    return this.streams.at(-1);
  }

  get response() {
    return this.responses.at(-1);
  }

  client(options = {}) {
    const { platform } = this;
    return new Client({ url: "http://broker.test", session: "s1", platform, ...options });
  }

  /** A client that has begun to connect, and what it tells. */
  async start(options = {}) {
    const client = this.client(options);
    const told = record(client);
    client.connect();
    await settle();
    return { client, told };
  }

  /** A client whose WebSocket is open and subscribed. */
  async open(options = {}, subscribedData = {}) {
    const started = await this.start(options);
    this.socket.greet(subscribedData);
    return started;
  }

  goOffline() {
    this.navigator.onLine = false;
    this.window.dispatchEvent(new Event("offline"));
  }

  goOnline() {
    this.navigator.onLine = true;
    this.window.dispatchEvent(new Event("online"));
  }
}

const NAMES = [
  "event",
  "state",
  "gap",
  "reset",
  "skipped",
  "subscribed",
  "caught_up",
  "presence",
  "token_expiring",
  "closing",
  "frame",
  "error",
];

/** Lists of everything that a client tells, by name. */
export function record(client) {
  const told = Object.fromEntries(NAMES.map((name) => [name, []]));
  for (const name of NAMES) client.on(name, (value) => told[name].push(value));
  return told;
}

/** Cuts the connection and lets the client come back at once. */
export async function reconnect(world) {
  world.luck = 0;
  world.socket.end();
  await world.clock.advance(0);
}

export const ids = (events) => Array.from(events, (event) => event.id);
export const states = (told) => told.state.map((change) => change.state);

/** What becomes of a promise: nothing yet, its value, or its error. */
export function outcome(promise) {
  const known = promise.then(
    (value) => value,
    (error) => error,
  );
  return settle().then(() => Promise.race([known, "pending"]));
}
