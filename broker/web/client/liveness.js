/** @import { Platform } from "../client.js" */

/** How often a page in front looks whether it was asleep. */
const LOOK_MS = 5000;
/** A timer that is later than this was not only busy: the page was frozen. */
const FROZEN_MS = 3000;

/**
 * Notices that a connection is dead: nothing has come for too long, or nothing came after
 * a question. A timer that comes much too late asks at once, instead of judging by a
 * silence in which this page could not listen.
 */
export class Liveness {
  #platform;
  #hooks;
  #limitMs = Infinity;
  #heardAt = 0;
  #dueAt = 0;
  #answerDueAt = Infinity;
  /** @type {any} */
  #timer = null;

  /**
   * @param {Platform} platform
   * @param {{silent: () => void, unanswered: () => void,
   *          frozen: (silentMs: number) => void}} hooks
   */
  constructor(platform, hooks) {
    this.#platform = platform;
    this.#hooks = hooks;
  }

  /** How long nothing has come. */
  get silentMs() {
    return this.#platform.now() - this.#heardAt;
  }

  /**
   * Begin, or begin anew.
   *
   * @param {number} limitMs Longest silence of a connection that lives.
   */
  start(limitMs) {
    this.#limitMs = limitMs;
    this.heard();
    this.#arm();
  }

  stop() {
    this.#platform.clearTimeout(this.#timer);
  }

  /** Something has come. */
  heard() {
    this.#heardAt = this.#platform.now();
    this.#answerDueAt = Infinity;
  }

  /**
   * A question was asked: whatever comes within *withinMs* is an answer.
   *
   * @param {number} withinMs
   */
  expect(withinMs) {
    this.#answerDueAt = Math.min(this.#answerDueAt, this.#platform.now() + withinMs);
    this.#arm();
  }

  #arm() {
    this.stop();
    const now = this.#platform.now();
    const endAt = Math.min(this.#heardAt + this.#limitMs, this.#answerDueAt);
    const isHidden = this.#platform.document?.visibilityState === "hidden";
    // A hidden page is told when it comes to the front, and its timers are late anyhow.
    const waitMs = Math.min(endAt - now, isHidden ? Infinity : LOOK_MS);
    this.#dueAt = now + Math.max(0, waitMs);
    this.#timer = this.#platform.setTimeout(() => this.#look(), Math.max(0, waitMs));
  }

  #look() {
    const now = this.#platform.now();
    if (now < this.#heardAt) this.#heardAt = now; // The clock was put back.
    const silentMs = now - this.#heardAt;
    if (now - this.#dueAt > FROZEN_MS) {
      // What has come meanwhile is still to be read: begin anew, and ask.
      this.start(this.#limitMs);
      this.#hooks.frozen(silentMs);
    } else if (now >= this.#answerDueAt) this.#hooks.unanswered();
    else if (silentMs >= this.#limitMs) this.#hooks.silent();
    else this.#arm();
  }
}
