import { Gate } from "./gate.js";
import { SseParser } from "./sse.js";
import { ABNORMAL } from "./verdict.js";

/** @import { Platform } from "../client.js" */
/** @import { Transport, TransportEnd, TransportHooks } from "./websocket.js" */

/** A share of what `Retry-After` says is added by chance: everybody was told the same. */
const RETRY_AFTER_JITTER = 0.5;

/**
 * Server-Sent Events, read by `fetch`: unlike `EventSource` it can send a token as a
 * header, sees the status of a refusal, and what it does not read stays in the network.
 *
 * @implements {Transport}
 */
export class EventStreamTransport {
  canPause = true;
  canSend = false;
  #platform;
  #hooks;
  #gate = new Gate();
  #abort = new AbortController();
  #parser = new SseParser();

  /**
   * @param {Platform} platform
   * @param {{url: string, token: string | null, lastEventId: string | null}} request
   *   Without *lastEventId* the URL says where to begin.
   * @param {TransportHooks} hooks
   */
  constructor(platform, { url, token, lastEventId }, hooks) {
    this.#platform = platform;
    this.#hooks = hooks;
    /** @type {Record<string, string>} */
    const headers = { Accept: "text/event-stream" };
    if (token !== null) headers.Authorization = `Bearer ${token}`;
    if (lastEventId !== null) headers["Last-Event-ID"] = lastEventId;
    this.#run(url, headers);
  }

  send() {
    throw new Error("nothing can be sent over an event stream");
  }

  pause() {
    this.#gate.shut();
  }

  resume() {
    this.#gate.open();
  }

  close() {
    this.abort();
    this.#hooks.closed({ code: ABNORMAL, reason: "" });
  }

  abort() {
    this.#abort.abort();
    this.#gate.open();
  }

  get #ended() {
    return this.#abort.signal.aborted;
  }

  /**
   * @param {string} url
   * @param {Record<string, string>} headers
   */
  async #run(url, headers) {
    /** @type {TransportEnd} */
    let end = { code: ABNORMAL, reason: "" };
    try {
      const fetch = /** @type {NonNullable<Platform["fetch"]>} */ (this.#platform.fetch);
      const signal = this.#abort.signal;
      const response = await fetch(url, { headers, signal, cache: "no-store" });
      if (response.status !== 200) end = await this.#refusal(response);
      else await this.#read(response);
    } catch {
      // The network failed; whatever it says is for the browser's own console.
    }
    if (this.#ended) return;
    this.#abort.abort(); // A body that nobody reads would keep its connection.
    this.#hooks.closed({ delayMs: this.#parser.retryMs, ...end });
  }

  /**
   * @param {Response} response
   * @returns {Promise<TransportEnd>}
   */
  async #refusal(response) {
    const after = response.headers.get("Retry-After") ?? "";
    const jitter = 1 + RETRY_AFTER_JITTER * this.#platform.random();
    const delayMs = /^\d+$/.test(after) ? Number(after) * 1000 * jitter : null;
    const body = await response.json().catch(() => null);
    const reason = body?.error?.code;
    const { status } = response;
    return {
      code: status,
      reason: typeof reason === "string" ? reason : `http_${status}`,
      delayMs,
    };
  }

  /** @param {Response} response */
  async #read(response) {
    // A page of a proxy that asks for a login is no event stream.
    const type = response.headers.get("Content-Type") ?? "";
    if (!type.startsWith("text/event-stream") || response.body === null) return;
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    while (!this.#ended) {
      const { value, done } = await reader.read();
      if (done) return;
      if (!this.#ended) this.#hooks.alive();
      await this.#handOn(decoder.decode(value, { stream: true }));
    }
  }

  /** @param {string} text */
  async #handOn(text) {
    for (const { data } of this.#parser.feed(text)) {
      if (this.#gate.isShut) await this.#gate.pass();
      if (this.#ended) return;
      this.#hooks.text(data);
    }
  }
}
