import { backoffMs } from "./backoff.js";
import { TransportChoice } from "./choice.js";
import { canPause, makeConnection } from "./dial.js";
import { ClientError } from "./errors.js";
import { watchPage } from "./page.js";
import { judgeCode } from "./verdict.js";

/** @import { Frame, Platform, State, StateChange, TransportName } from "../client.js" */
/** @import { Connection, Ending } from "./connection.js" */
/** @import { readOptions } from "./options.js" */
/** @import { Tokens } from "./tokens.js" */

/** A connection that was open so long starts the back-off anew. */
const HEALTHY_MS = 10_000;
/** So long after the second transport has opened the first one is tried once more. */
const TRIAL_MS = 10_000;
/** Ended from here, because what comes could be put nowhere. */
export const BUFFER_FULL = "buffer_full";

/**
 * What a link asks and tells.
 *
 * @typedef {object} LinkHooks
 * @property {() => string | null} resumeFrom For `last_event_id`.
 * @property {() => boolean} isFull Whether nothing more can be taken now.
 * @property {(connection: Connection, frame: Frame) => void} frame
 * @property {() => void} disconnected A connection has ended, in whatever way.
 * @property {(change: StateChange) => void} state
 * @property {(error: ClientError) => void} error
 * @property {(reason: string, error: ClientError | null) => void} finished
 */

/** Keeps up a connection: tries, waits, comes back, until one side says that it is over. */
export class Link {
  /** @type {State} */
  state = "idle";
  /** @type {Connection | null} */
  connection = null;

  #platform;
  #options;
  #tokens;
  #hooks;
  #choice;
  /** Rises with each attempt and each end: what was awaited meanwhile is of no use. */
  #run = 0;
  #attempts = 0;
  #wasOpen = false;
  #hasRenewed = false;
  #takeover = false;
  #leaving = "";
  /** @type {any} */
  #retryTimer = null;
  /** The server said not to come before. */
  #notBefore = 0;
  #forgetPage = () => {};
  /** @type {any} */
  #trialTimer = null;
  /** @type {Connection | null} */
  #trial = null;

  /**
   * @param {Platform} platform
   * @param {ReturnType<typeof readOptions>} options
   * @param {Tokens} tokens
   * @param {LinkHooks} hooks
   */
  constructor(platform, options, tokens, hooks) {
    this.#platform = platform;
    this.#options = options;
    this.#tokens = tokens;
    this.#hooks = hooks;
    this.#choice = new TransportChoice(options.transports, options.fallbackAfter);
  }

  get canPause() {
    if (this.connection !== null) return this.connection.canPause;
    return canPause(this.#choice.next, this.#options, this.#platform);
  }

  connect() {
    if (this.state === "closing") this.connection?.fail("");
    if (this.state !== "idle" && this.state !== "closed") return;
    const run = this.#beginRun();
    this.#attempts = 0;
    this.#wasOpen = this.#hasRenewed = false;
    this.#takeover = this.#options.takeover ?? false;
    const { signal } = this.#options;
    if (signal?.aborted) {
      this.#finish({ reason: "aborted" });
      return;
    }
    this.#watch(signal);
    this.#setState("connecting", { reason: "connect" });
    // Whoever was told may have closed it again; so below, wherever somebody is told.
    if (run === this.#run) this.#attempt();
  }

  /**
   * Take leave for good.
   *
   * @param {string} reason
   */
  leave(reason) {
    if (this.state === "closed" || this.state === "closing") return;
    const run = this.#beginRun();
    this.#leaving = reason;
    this.#setState("closing", { reason });
    if (run !== this.#run) return;
    if (this.connection === null) this.#finish({ reason });
    else this.connection.close();
  }

  /** The broker has said welcome. */
  welcomed() {
    this.#wasOpen = true;
    this.#planTrial();
    // Evicted while it was away, a client must not open the session again by itself.
    this.#hasRenewed = this.#takeover = false;
    this.#setState("open", { reason: "welcome" });
  }

  /** There is room again. */
  drained() {
    const isStalled = this.state === "reconnecting" && this.connection === null;
    if (isStalled && this.#retryTimer === null && !this.#hooks.isFull()) this.#attempt();
  }

  // Connecting.

  /** @param {AbortSignal | undefined} signal */
  #watch(signal) {
    const forgetPage = watchPage(this.#platform, {
      woke: () => this.#onWoke(),
      online: () => this.#onOnline(),
      offline: () => this.#onOffline(),
    });
    const onAbort = () => this.leave("aborted");
    signal?.addEventListener("abort", onAbort);
    this.#forgetPage = () => {
      forgetPage();
      signal?.removeEventListener("abort", onAbort);
    };
  }

  async #attempt() {
    const run = this.#beginRun();
    let token;
    try {
      token = await this.#tokens.get();
    } catch (error) {
      if (run === this.#run) this.#onNoToken(/** @type {ClientError} */ (error));
      return;
    }
    if (run === this.#run) this.#open(token);
  }

  /** Whatever waits or is awaited is void from here on. */
  #beginRun() {
    this.#platform.clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
    this.#run += 1;
    return this.#run;
  }

  /** @param {string | null} token */
  #open(token) {
    const connection = this.#make(this.#choice.next, token, (frame) =>
      this.#hooks.frame(connection, frame),
    );
    this.connection = connection;
    connection.start(this.#options.connectTimeoutMs);
  }

  /**
   * @param {TransportName} name
   * @param {string | null} token
   * @param {(frame: Frame) => void} onFrame
   * @returns {Connection} Not started yet.
   */
  #make(name, token, onFrame) {
    const from = this.#hooks.resumeFrom();
    const how = { name, token, from, takeover: this.#takeover };
    const connection = makeConnection(this.#platform, this.#options, how, {
      frame: onFrame,
      ended: (ending) => this.#onEnded(connection, ending),
    });
    return connection;
  }

  // The first transport may have failed only because the broker was away as well.

  #planTrial() {
    const [first] = this.#options.transports;
    if (this.connection?.name === first) return;
    this.#trialTimer = this.#platform.setTimeout(() => this.#try(first), TRIAL_MS);
  }

  /** @param {TransportName} first Goes over to it if the broker answers. */
  #try(first) {
    if (this.connection?.isPaused) return; // It might not be able to.
    const trial = this.#make(first, this.#tokens.current, (frame) => {
      if (trial === this.#trial && isWelcome(frame)) this.#goOver(trial);
      if (trial === this.connection) this.#hooks.frame(trial, frame);
    });
    this.#trial = trial;
    trial.start(this.#options.connectTimeoutMs);
  }

  /** @param {Connection} trial */
  #goOver(trial) {
    const former = this.connection;
    this.#trial = null;
    this.connection = trial;
    former?.fail("");
    this.#hooks.disconnected();
  }

  #endTrial() {
    this.#platform.clearTimeout(this.#trialTimer);
    this.#trial?.fail("");
  }

  // Ending.

  /**
   * @param {Connection} connection
   * @param {Ending} ending
   */
  #onEnded(connection, ending) {
    if (connection === this.#trial) this.#trial = null;
    if (connection !== this.connection) return;
    this.connection = null;
    this.#hooks.disconnected();
    this.#log("connection ended", ending);
    if (this.#trial !== null && this.state !== "closing") {
      // It may have taken the place of this one, where a user has only so many.
      this.connection = this.#trial;
      this.#trial = null;
      this.#setState("reconnecting", ending);
      return;
    }
    this.#endTrial();
    if (this.state === "closing") {
      this.#finish({ reason: this.#leaving, code: ending.code });
      return;
    }
    this.#choice.ended(connection.name, ending.isAnswered);
    const verdict = this.#judge(connection, ending);
    if (verdict === "stop") this.#stop(ending);
    else this.#comeBack(ending);
  }

  /**
   * @param {Connection} connection
   * @param {Ending} ending
   * @returns {"retry" | "stop"}
   */
  #judge(connection, { code }) {
    const verdict = judgeCode(code);
    if (verdict !== "renew") return verdict;
    if (this.#tokens.current !== connection.token) return "retry"; // There is a newer one.
    // A new token that is refused as well will not get better by asking again.
    if (!this.#tokens.canRenew || this.#hasRenewed) return "stop";
    this.#hasRenewed = true;
    this.#tokens.forget(code === 4510 ? "expired" : "refused");
    return "retry";
  }

  /** @param {Ending} ending */
  #comeBack({ code, reason, delayMs, closing, openMs }) {
    if (openMs !== null && openMs > HEALTHY_MS) this.#attempts = 0;
    if (reason === BUFFER_FULL) {
      this.#wait(0, { reason }); // Our own doing, and no mishap.
      return;
    }
    const run = this.#beginRun();
    // Once for each outage: of the attempts that follow `state` tells.
    if (openMs !== null && closing === null) {
      const message = `the connection is gone: ${reason} (${code})`;
      this.#hooks.error(new ClientError(reason, message, { closeCode: code }));
    }
    if (run !== this.#run) return;
    this.#notBefore = delayMs === null ? 0 : this.#platform.now() + delayMs;
    this.#wait(delayMs ?? this.#nextDelay(), { reason, code });
  }

  #nextDelay() {
    const { backoff } = this.#options;
    const delayMs = backoffMs(this.#attempts, backoff, this.#platform.random);
    this.#attempts += 1;
    return delayMs;
  }

  /**
   * @param {number} delayMs
   * @param {{reason: string, code?: number | null}} why
   */
  #wait(delayMs, { reason, code = null }) {
    this.#beginRun();
    if (this.#hooks.isFull()) {
      this.#setState("reconnecting", { reason: BUFFER_FULL, code });
      return; // Until somebody takes what is there.
    }
    const isOffline = this.#platform.navigator?.onLine === false;
    // Not never: what says that there is no network is wrong now and then.
    const waitMs = isOffline ? Math.max(delayMs, this.#options.backoff.maxMs) : delayMs;
    this.#retryTimer = this.#platform.setTimeout(() => this.#attempt(), waitMs);
    const retryInMs = Math.round(waitMs);
    const shown = isOffline ? "offline" : reason;
    this.#setState("reconnecting", { reason: shown, code, retryInMs });
  }

  /** @param {ClientError} error */
  #onNoToken(error) {
    this.#log(error.message, error.cause);
    if (error.terminal) {
      this.#finish({ reason: error.code, error });
      return;
    }
    const run = this.#beginRun();
    if (this.#wasOpen) this.#hooks.error(error);
    if (run === this.#run) this.#wait(this.#nextDelay(), { reason: error.code });
  }

  /** @param {Ending} ending */
  #stop({ code, reason }) {
    const message = `the broker refuses: ${reason} (${code})`;
    const error = new ClientError(reason, message, { closeCode: code, terminal: true });
    this.#finish({ reason, code, error });
  }

  /** @param {{reason: string, code?: number | null, error?: ClientError | null}} why */
  #finish({ reason, code = null, error = null }) {
    this.#forgetPage();
    // First, since whoever is told may connect again.
    this.#hooks.finished(reason, error);
    this.#setState("closed", { reason, code });
    if (error !== null) this.#hooks.error(error);
  }

  // The page.

  #onWoke() {
    this.connection?.probe();
    if (this.#retryTimer !== null && this.#platform.now() >= this.#notBefore) {
      this.#attempts = 0;
      this.#attempt();
    }
  }

  #onOnline() {
    this.connection?.probe();
    if (this.#retryTimer === null) return;
    this.#attempts = 0;
    // A whole office comes back at the same moment.
    const leftMs = this.#notBefore - this.#platform.now();
    this.#wait(leftMs > 0 ? leftMs : this.#nextDelay(), { reason: "online" });
  }

  #onOffline() {
    this.connection?.probe();
    if (this.#retryTimer === null) return;
    this.#wait(this.#options.backoff.maxMs, { reason: "offline" });
  }

  /**
   * @param {State} state
   * @param {{reason: string, code?: number | null, retryInMs?: number | null}} detail
   */
  #setState(state, { reason, code = null, retryInMs = null }) {
    const previous = this.state;
    this.state = state;
    const transport = this.connection?.name ?? null;
    const told = { state, previous, reason, code, retryInMs, transport };
    this.#log("state", told);
    this.#hooks.state(told);
  }

  /**
   * @param {string} message
   * @param {unknown} fields
   */
  #log(message, fields) {
    this.#options.logger?.info(message, fields);
  }
}

/** @param {Frame} frame */
function isWelcome(frame) {
  return frame.event === "welcome" && frame.id === undefined;
}
