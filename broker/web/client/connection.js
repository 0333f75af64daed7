import { ClientError } from "./errors.js";
import { Liveness } from "./liveness.js";
import { ABNORMAL } from "./verdict.js";

/** @import { Closing, Frame, Platform, TransportName } from "../client.js" */
/** @import { Transport, TransportEnd, TransportHooks } from "./websocket.js" */

const DEFAULT_HEARTBEAT_S = 25;
/** Silence after which a connection is dead: two heartbeats may be late, not three. */
const SILENT_HEARTBEATS = 2.5;
/** After a wake-up an event stream, which cannot be asked, gets less patience. */
const STALE_HEARTBEATS = 1.2;
const ANSWER_MS = 5000;
const STALE_ANSWER_MS = 1000;
/** From here on close codes are the broker's; a proxy knows none of them. */
const FIRST_OWN_CODE = 4000;
/** How long a leave may take; the broker waits as long. */
const LEAVE_MS = 2000;

/**
 * How a connection ended.
 *
 * @typedef {object} Ending
 * @property {number} code Close code, HTTP status of a refusal, or 1006.
 * @property {string} reason
 * @property {number | null} delayMs How long the server asks to stay away.
 * @property {Closing | null} closing What the broker said before it closed.
 * @property {boolean} isAnswered Whether it was the broker that answered, in its protocol.
 * @property {number | null} openMs How long it was open; null: never welcomed.
 */

/** One connection from its attempt to its end. */
export class Connection {
  /** The name that the broker gave it. @type {string | null} */
  id = null;
  isSubscribed = false;
  isPaused = false;
  maxFrameBytes = Infinity;

  #platform;
  #hooks;
  #open;
  /** @type {Transport | null} */
  #transport = null;
  #liveness;
  #heartbeatMs = DEFAULT_HEARTBEAT_S * 1000;
  /** @type {any} Until it is welcomed, and again while it takes leave. */
  #deadline = null;
  /** @type {Closing | null} */
  #closing = null;
  #hasEnded = false;
  /** @type {number | null} */
  #welcomedAt = null;

  /**
   * @param {Platform} platform
   * @param {{name: TransportName, token: string | null,
   *          open: (hooks: TransportHooks) => Transport}} how
   * @param {{frame: (frame: Frame) => void, ended: (ending: Ending) => void}} hooks
   */
  constructor(platform, { name, token, open }, hooks) {
    this.name = name;
    this.token = token;
    this.#platform = platform;
    this.#open = open;
    this.#hooks = hooks;
    this.#liveness = new Liveness(platform, {
      silent: () => this.fail("silent"),
      unanswered: () => this.fail("unanswered"),
      frozen: (silentMs) => this.#probe(silentMs),
    });
  }

  get isWelcomed() {
    return this.#welcomedAt !== null && !this.#hasEnded;
  }

  get canPause() {
    return this.#transport?.canPause ?? false;
  }

  get canSend() {
    return this.#transport?.canSend ?? false;
  }

  /** @param {number} timeoutMs Within which the broker must have said welcome. */
  start(timeoutMs) {
    this.#deadline = this.#platform.setTimeout(
      () => this.fail("connect_timeout"),
      timeoutMs,
    );
    try {
      this.#transport = this.#open({
        text: (text) => this.#onText(text),
        alive: () => this.#liveness.heard(),
        closed: (end) => this.#end(end),
      });
    } catch {
      // The browser refuses the URL, by a policy of the page for example.
      this.#end({ code: ABNORMAL, reason: "cannot_connect" });
    }
  }

  /** @param {string} text */
  send(text) {
    this.#transport?.send(text);
  }

  /** Find out now whether it lives, after a sleep or on another network. */
  probe() {
    this.#probe(this.#liveness.silentMs);
  }

  /** Read no more. The silence that follows says nothing. */
  pause() {
    this.isPaused = true;
    this.#liveness.stop();
    this.#transport?.pause();
  }

  resume() {
    if (!this.isPaused) return;
    this.isPaused = false;
    this.#liveness.start(SILENT_HEARTBEATS * this.#heartbeatMs);
    this.#transport?.resume();
  }

  /** Take leave; it has ended in bounded time. */
  close() {
    this.#stopTimers();
    this.#deadline = this.#platform.setTimeout(() => this.fail(""), LEAVE_MS);
    this.#transport?.close();
  }

  /**
   * End it from here.
   *
   * @param {string} reason
   */
  fail(reason) {
    if (this.#hasEnded) return;
    this.#transport?.abort();
    this.#end({ code: ABNORMAL, reason });
  }

  /** @param {number} silentMs */
  #probe(silentMs) {
    if (!this.isWelcomed || this.isPaused) return;
    if (this.canSend) {
      this.send('{"cmd":"ping"}');
      this.#liveness.expect(ANSWER_MS);
    } else {
      const isStale = silentMs > STALE_HEARTBEATS * this.#heartbeatMs;
      this.#liveness.expect(isStale ? STALE_ANSWER_MS : Infinity);
    }
  }

  /** @param {string} text */
  #onText(text) {
    if (this.#hasEnded) return;
    this.#liveness.heard();
    try {
      const frame = readFrame(text);
      if (frame.id === undefined) this.#note(frame);
      this.#hooks.frame(frame);
    } catch (error) {
      // Also after a fault of our own: a connection that goes on would hide the hole.
      const isTheirs = error instanceof ClientError;
      this.fail(isTheirs ? error.code : "internal");
      if (!isTheirs) throw error;
    }
  }

  /** @param {Frame} frame */
  #note(frame) {
    const data = /** @type {any} */ (frame.data ?? {});
    if (frame.event === "welcome") {
      this.#stopTimers();
      this.#welcomedAt = this.#platform.now();
      this.id = data.connection_id;
      this.maxFrameBytes = data.max_frame_bytes ?? Infinity;
      this.#heartbeatMs = (data.heartbeat_s ?? DEFAULT_HEARTBEAT_S) * 1000;
      this.#liveness.start(SILENT_HEARTBEATS * this.#heartbeatMs);
    } else if (frame.event === "subscribed") {
      this.isSubscribed = true;
    } else if (frame.event === "closing") {
      this.#closing = data;
    }
  }

  /** @param {TransportEnd} end */
  #end(end) {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#stopTimers();
    const closing = this.#closing;
    const openedAt = this.#welcomedAt;
    // The close frame may be lost on its way; what was said before it counts.
    const code = closing?.code ?? end.code;
    this.#hooks.ended({
      code,
      reason: closing?.reason || end.reason || "connection_lost",
      delayMs: closing?.delay_ms ?? end.delayMs ?? null,
      closing,
      isAnswered: openedAt !== null || code >= FIRST_OWN_CODE,
      openMs: openedAt === null ? null : this.#platform.now() - openedAt,
    });
  }

  #stopTimers() {
    this.#platform.clearTimeout(this.#deadline);
    this.#liveness.stop();
  }
}

/**
 * @param {string} text
 * @returns {Frame}
 * @throws {ClientError} It is no frame of the broker.
 */
function readFrame(text) {
  let frame;
  try {
    frame = JSON.parse(text);
  } catch (cause) {
    throw new ClientError("bad_frame", "the server sent what is not JSON", { cause });
  }
  if (typeof frame?.event !== "string") {
    throw new ClientError("bad_frame", "the server sent what is no frame");
  }
  return frame;
}
