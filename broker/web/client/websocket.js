import { Gate } from "./gate.js";
import { ABNORMAL, NORMAL } from "./verdict.js";

/** @import { Platform } from "../client.js" */

/**
 * What a transport tells. `closed` comes at most once, and nothing comes after it or
 * after `abort`.
 *
 * @typedef {object} TransportHooks
 * @property {(text: string) => void} text A frame.
 * @property {() => void} alive Something came that is no frame.
 * @property {(end: TransportEnd) => void} closed
 *
 * @typedef {object} TransportEnd
 * @property {number} code A close code, or the HTTP status of a refusal.
 * @property {string} reason May be empty.
 * @property {number | null} [delayMs] How long the server asks to stay away.
 *
 * @typedef {object} TransportRequest
 * @property {string} url
 * @property {string | null} token
 *
 * @typedef {object} Transport
 * @property {boolean} canPause
 * @property {boolean} canSend
 * @property {(text: string) => void} send
 * @property {() => void} pause Read nothing more; what is not read stays in the network.
 * @property {() => void} resume
 * @property {() => void} close Take leave; `closed` follows if the server answers.
 * @property {() => void} abort Let go at once.
 */

/** @param {string | null} token */
function subprotocols(token) {
  return token === null ? ["broker.v1"] : ["broker.v1", `bearer.${token}`];
}

/**
 * The WebSocket that every browser has. It reads whether somebody listens or not.
 *
 * @implements {Transport}
 */
export class WebSocketTransport {
  canPause = false;
  canSend = true;
  #socket;

  /**
   * @param {Platform} platform
   * @param {TransportRequest} request
   * @param {TransportHooks} hooks
   */
  constructor(platform, { url, token }, hooks) {
    const socket = new /** @type {any} */ (platform.WebSocket)(url, subprotocols(token));
    this.#socket = socket;
    socket.onmessage = (/** @type {any} */ { data }) => {
      if (typeof data === "string") hooks.text(data);
    };
    const end = (/** @type {TransportEnd} */ how) => {
      if (this.#socket.onclose === null) return;
      this.#forget();
      hooks.closed(how);
    };
    socket.onclose = (/** @type {any} */ { code, reason }) => end({ code, reason });
    // A browser closes right behind it. Node 20 does not, if it could not connect.
    socket.onerror = () => {
      platform.setTimeout(() => end({ code: ABNORMAL, reason: "" }), 0);
    };
  }

  /** @param {string} text */
  send(text) {
    this.#socket.send(text);
  }

  pause() {}

  resume() {}

  close() {
    this.#socket.close(NORMAL);
  }

  abort() {
    this.#forget();
    this.#socket.close();
  }

  #forget() {
    this.#socket.onmessage = this.#socket.onclose = null;
  }
}

/**
 * The same by `WebSocketStream`, where the browser has it: what is not read here is not
 * read from the network either, so the server sees a socket that does not keep up.
 *
 * @implements {Transport}
 */
export class WebSocketStreamTransport {
  canPause = true;
  canSend = true;
  #gate = new Gate();
  #hooks;
  #stream;
  /** @type {any} */
  #writer = null;
  #ended = false;

  /**
   * @param {Platform} platform
   * @param {TransportRequest} request
   * @param {TransportHooks} hooks
   */
  constructor(platform, { url, token }, hooks) {
    this.#hooks = hooks;
    const WebSocketStream = /** @type {any} */ (platform.WebSocketStream);
    this.#stream = new WebSocketStream(url, { protocols: subprotocols(token) });
    this.#run();
  }

  /** @param {string} text */
  send(text) {
    // A write that fails is a connection that ends, which `closed` tells.
    this.#writer.write(text).catch(() => {});
  }

  pause() {
    this.#gate.shut();
  }

  resume() {
    this.#gate.open();
  }

  close() {
    this.#stream.close({ closeCode: NORMAL });
    this.#gate.open();
  }

  abort() {
    this.#ended = true;
    this.#gate.open();
    this.#stream.close();
  }

  async #run() {
    const reading = this.#read().catch(() => {});
    const end = await this.#stream.closed.then(
      (/** @type {any} */ info) => ({ code: info.closeCode, reason: info.reason }),
      (/** @type {any} */ error) => ({
        code: error?.closeCode || ABNORMAL,
        reason: error?.reason ?? "",
      }),
    );
    // Frames that came before the end come first, unless somebody holds them back: what
    // is not handed on now is sent again by the next connection.
    if (!this.#gate.isShut) await reading;
    if (this.#ended) return;
    this.#ended = true;
    this.#hooks.closed(end);
  }

  async #read() {
    const { readable, writable } = await this.#stream.opened;
    if (this.#ended) return;
    this.#writer = writable.getWriter();
    const reader = readable.getReader();
    while (!this.#ended) {
      const { value, done } = await reader.read();
      if (done) return;
      if (this.#gate.isShut) await this.#gate.pass();
      if (!this.#ended && typeof value === "string") this.#hooks.text(value);
    }
  }
}
