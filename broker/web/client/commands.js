import { backoffMs } from "./backoff.js";
import { CommandError } from "./errors.js";

/** @import { Frame, Platform } from "../client.js" */

const encoder = new TextEncoder();
const NAME_CHARS_MAX = 128;
/** These have methods of their own, or would end what a client is about. */
const RESERVED = new Set(["ack", "auth", "refresh", "subscribe", "unsubscribe"]);

/**
 * @typedef {object} Pending
 * @property {string} text The frame: said again in the same words.
 * @property {Stage} stage
 * @property {(answer: any) => void} resolve
 * @property {(error: CommandError) => void} reject
 * @property {any} timer
 * @property {any} retryTimer
 * @property {number} refusals
 * @property {CommandError | null} refusal The answer to the last time it was said.
 *
 * @typedef {"welcomed" | "subscribed" | "connected"} Stage From when on a connection can
 *   take it; `connected` is for this connection only, and is not said again on another.
 */

/**
 * What was said and is not answered yet. All of it is said again, in order, when there is
 * a new connection: the broker stores the same id once.
 */
export class Commands {
  #platform;
  #backoff;
  #transmit;
  /** @type {Map<string, Pending>} */
  #pending = new Map();

  /**
   * @param {Platform} platform
   * @param {{minMs: number, maxMs: number}} backoff Between refusals of one command.
   * @param {(text: string, stage: Stage) => boolean} transmit Sends, if that is possible
   *   now, and says whether it was; throws a `CommandError` if it never will be.
   */
  constructor(platform, backoff, transmit) {
    this.#platform = platform;
    this.#backoff = backoff;
    this.#transmit = transmit;
  }

  /**
   * @param {{cmd: string, id?: string, session?: string, data?: object}} frame
   * @param {number} timeoutMs
   * @param {Stage} stage
   * @returns {Promise<any>} The `data` of the answer, without its `ref`.
   * @throws {TypeError} The id is that of a command without an answer.
   */
  send(frame, timeoutMs, stage) {
    const id = frame.id ?? this.#platform.randomId();
    if (this.#pending.has(id)) throw new TypeError("this id waits for its answer");
    const text = JSON.stringify({ ...frame, id });
    return new Promise((resolve, reject) => {
      const timer = this.#platform.setTimeout(
        () => this.#giveUp(id, timeoutMs),
        timeoutMs,
      );
      const retryTimer = null;
      const asked = { text, stage, timer, retryTimer, refusals: 0, refusal: null };
      this.#pending.set(id, { ...asked, resolve, reject });
      this.#say(id);
    });
  }

  /**
   * A connection can take what is of this stage.
   *
   * @param {Stage} stage
   */
  flush(stage) {
    for (const [id, pending] of [...this.#pending]) {
      if (pending.stage === stage) this.#say(id);
    }
  }

  /**
   * Take a frame that may be an answer.
   *
   * @param {Frame} frame
   * @returns {boolean} Whether it was one.
   */
  answer(frame) {
    const { ref, ...data } = /** @type {any} */ (frame.data ?? {});
    const pending = this.#pending.get(ref);
    if (pending === undefined) return false;
    if (frame.event !== "error") this.#settle(ref)?.resolve(data);
    else {
      const refusal = new CommandError(data.code, data.message, data.retry === true);
      if (refusal.retry) this.#sayLater(ref, pending, refusal);
      else this.#settle(ref)?.reject(refusal);
    }
    return true;
  }

  /** The connection is gone. */
  disconnected() {
    const message = "the connection has ended before the answer";
    this.rejectAll(new CommandError("disconnected", message, true), "connected");
  }

  /**
   * @param {CommandError} error
   * @param {Stage} [stage] Only what is of this stage.
   */
  rejectAll(error, stage) {
    for (const [id, pending] of [...this.#pending]) {
      if (stage === undefined || pending.stage === stage) this.#settle(id)?.reject(error);
    }
  }

  /** @param {string} id */
  #say(id) {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    this.#platform.clearTimeout(pending.retryTimer);
    try {
      if (this.#transmit(pending.text, pending.stage)) pending.refusal = null;
    } catch (error) {
      this.#settle(id)?.reject(/** @type {CommandError} */ (error));
    }
  }

  /**
   * @param {string} id
   * @param {Pending} pending
   * @param {CommandError} refusal
   */
  #sayLater(id, pending, refusal) {
    const waitMs = backoffMs(pending.refusals, this.#backoff, this.#platform.random);
    pending.refusals += 1;
    pending.refusal = refusal;
    pending.retryTimer = this.#platform.setTimeout(() => this.#say(id), waitMs);
  }

  /**
   * @param {string} id
   * @param {number} timeoutMs
   */
  #giveUp(id, timeoutMs) {
    const pending = this.#settle(id);
    // If the last word was a refusal, that says more: then it is not stored.
    pending?.reject(pending.refusal ?? timedOut(timeoutMs));
  }

  /** @param {string} id */
  #settle(id) {
    const pending = this.#pending.get(id);
    if (pending === undefined) return undefined;
    this.#pending.delete(id);
    this.#platform.clearTimeout(pending.timer);
    this.#platform.clearTimeout(pending.retryTimer);
    return pending;
  }
}

/**
 * @param {unknown} cmd
 * @param {unknown} id
 * @throws {TypeError} It is none that an application may send.
 */
export function checkCommand(cmd, id) {
  const isName = (/** @type {unknown} */ name) =>
    typeof name === "string" && name !== "" && name.length <= NAME_CHARS_MAX;
  if (!isName(cmd) || !(id === undefined || isName(id))) {
    throw new TypeError(`a command and its id have 1 to ${NAME_CHARS_MAX} characters`);
  }
  if (RESERVED.has(/** @type {string} */ (cmd)))
    throw new TypeError(`${cmd} is no command to send`);
}

/** @param {string} text */
export function sizeInBytes(text) {
  return encoder.encode(text).length;
}

/** @param {number} timeoutMs */
function timedOut(timeoutMs) {
  const message = `no answer within ${timeoutMs} ms; it may have been stored`;
  return new CommandError("timeout", message, true);
}
