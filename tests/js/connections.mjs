// Connections whose other end the test holds.

import { subscribed, welcome } from "./frames.mjs";

/** One end of a WebSocket; the test is the other. */
export class FakeWebSocket {
  sent = [];
  closedWith = undefined;

  constructor(url, protocols) {
    this.url = new URL(url);
    this.protocols = protocols;
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.closedWith = { code };
  }

  /** Whether the client still listens. */
  get isHeard() {
    return Boolean(this.onmessage);
  }

  /** The broker sends a frame, or text that is none. */
  say(frame) {
    const data = typeof frame === "string" ? frame : JSON.stringify(frame);
    this.onmessage?.({ data });
  }

  /** The connection ends. */
  end(code = 1006, reason = "") {
    this.onclose?.({ code, reason });
  }

  welcome(more = {}) {
    this.say(welcome(more));
  }

  /** Says welcome and how the subscription begins. */
  greet(subscribedData = {}) {
    this.welcome();
    this.say(subscribed(subscribedData));
  }
}

/** A `WebSocketStream`, with streams of the real kind. */
export class FakeWebSocketStream {
  sent = [];
  reads = 0;
  #waiting = [];
  #wanted = () => {};

  constructor(url, { protocols }) {
    this.url = new URL(url);
    this.protocols = protocols;
    this.opened = new Promise((resolve, reject) => {
      this.open = () =>
        resolve({ readable: this.#readable(), writable: this.#writable() });
      this.refuse = reject;
    });
    this.closed = new Promise((resolve, reject) => {
      this.#closed = { resolve, reject };
    });
    this.closed.catch(() => {});
  }
  #closed;
  #controller;

  close(info) {
    this.closedWith = info ?? {};
  }

  say(frame) {
    this.#waiting.push(JSON.stringify(frame));
    this.#wanted();
  }

  /** Ends; what was said before that can still be read. */
  end(closeCode = 1006, reason = "") {
    for (const text of this.#waiting.splice(0)) this.#controller.enqueue(text);
    this.#controller?.close();
    this.#closed.resolve({ closeCode, reason });
  }

  cut(more = { closeCode: 1006, reason: "" }) {
    const error = Object.assign(new Error("cut"), more);
    this.#controller?.error(error);
    this.refuse(error);
    this.#closed.reject(error);
  }

  greet(subscribedData = {}) {
    this.open();
    this.say(welcome());
    this.say(subscribed(subscribedData));
  }

  /** Takes one message from the network each time the client wants one. */
  #readable() {
    const pull = async (controller) => {
      this.reads += 1;
      while (this.#waiting.length === 0) {
        await new Promise((resolve) => {
          this.#wanted = resolve;
        });
      }
      controller.enqueue(this.#waiting.shift());
    };
    const start = (controller) => {
      this.#controller = controller;
    };
    return new ReadableStream({ start, pull }, { highWaterMark: 0 });
  }

  #writable() {
    const write = (text) => void this.sent.push(JSON.parse(text));
    return new WritableStream({ write });
  }
}

/** An answer to `fetch` whose body the test writes. */
export class FakeResponse {
  reads = 0;
  #controller;
  #wanted = () => {};
  #chunks = [];

  constructor(url, init) {
    this.url = new URL(url);
    this.headers = init.headers;
    this.signal = init.signal;
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.fail = () => reject(new TypeError("network"));
      init.signal.addEventListener("abort", () => reject(init.signal.reason));
    });
  }
  #resolve;

  get isAborted() {
    return this.signal.aborted;
  }

  open(type = "text/event-stream") {
    const pull = async (controller) => {
      this.reads += 1;
      while (this.#chunks.length === 0) {
        await new Promise((resolve) => {
          this.#wanted = resolve;
        });
      }
      controller.enqueue(this.#chunks.shift());
    };
    const start = (controller) => {
      this.#controller = controller;
      this.signal.addEventListener("abort", () => this.#break());
    };
    const body = new ReadableStream({ start, pull }, { highWaterMark: 0 });
    this.#resolve(new Response(body, { headers: { "Content-Type": type } }));
  }

  #break() {
    try {
      this.#controller.error(this.signal.reason);
    } catch {
      // It has ended already.
    }
  }

  refuse(status, headers = {}, body = null) {
    this.#resolve(new Response(body && JSON.stringify(body), { status, headers }));
  }

  write(text) {
    this.writeBytes(new TextEncoder().encode(text));
  }

  writeBytes(bytes) {
    this.#chunks.push(Uint8Array.from(bytes));
    this.#wanted();
  }

  say(frame) {
    this.write(`data: ${JSON.stringify(frame)}\n\n`);
  }

  end() {
    this.#controller.close();
  }

  greet(subscribedData = {}) {
    this.open();
    this.say(welcome());
    this.say(subscribed(subscribedData));
  }
}
