import { Commands, checkCommand, sizeInBytes } from "./commands.js";
import { Cursor } from "./cursor.js";
import { Emitter } from "./emitter.js";
import { ClientError, CommandError } from "./errors.js";
import { BUFFER_FULL, Link } from "./link.js";
import { readOptions } from "./options.js";
import { resolvePlatform } from "./platform.js";
import { Queues } from "./queue.js";
import { Tokens } from "./tokens.js";

/** @import * as Api from "../client.js" */
/** @import { BrokerEvent, Frame } from "../client.js" */
/** @import { Stage } from "./commands.js" */
/** @import { Connection } from "./connection.js" */

const EVENTS = [
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
/**
 * Reads one session, over as many connections as it takes.
 *
 * @implements {Api.Client}
 */
export class Client {
  #options;
  #platform;
  #tokens;
  #emitter;
  #cursor;
  #commands;
  #link;
  #queues;
  #isPaused = false;

  /** @param {Api.ClientOptions} options */
  constructor(options) {
    this.#platform = resolvePlatform(options.platform);
    this.#options = readOptions(options, this.#platform);
    this.#tokens = new Tokens(this.#options);
    this.#emitter = new Emitter(EVENTS, (error, name) => this.#onThrow(error, name));
    this.#cursor = new Cursor(this.#options.lastEventId ?? null);
    this.#commands = new Commands(this.#platform, this.#options.backoff, (text, stage) =>
      this.#transmit(text, stage),
    );
    this.#queues = new Queues(this.#options.bufferSize, () => this.#hold());
    this.#link = new Link(this.#platform, this.#options, this.#tokens, {
      resumeFrom: () => this.#cursor.resumeFrom,
      isFull: () => this.#queues.isFull,
      frame: (connection, frame) => this.#onFrame(connection, frame),
      disconnected: () => this.#onDisconnected(),
      state: (change) => this.#emitter.emit("state", change),
      error: (error) => this.#emitError(error),
      finished: (reason, error) => this.#onFinished(reason, error),
    });
  }

  get state() {
    return this.#link.state;
  }

  get position() {
    return this.#queues.taken(this.#cursor.position);
  }

  get connectionId() {
    return this.#link.connection?.id ?? null;
  }

  get transport() {
    return this.#link.connection?.name ?? null;
  }

  get canPause() {
    return this.#link.canPause;
  }

  get paused() {
    return this.#isPaused && this.canPause;
  }

  /**
   * @param {any} name
   * @param {(value: any) => unknown} listener
   */
  on(name, listener) {
    return this.#emitter.on(name, listener);
  }

  connect() {
    this.#link.connect();
  }

  close() {
    this.#link.leave("client");
  }

  /**
   * @param {string} cmd
   * @param {object | null} [data]
   * @param {Api.SendOptions} [options]
   * @returns {Promise<any>}
   */
  async send(cmd, data, { timeoutMs, session, id } = {}) {
    checkCommand(cmd, id);
    const frame = { cmd, id, session, data: data ?? undefined };
    return this.#ask(frame, cmd === "ping" ? "connected" : "welcomed", timeoutMs);
  }

  /**
   * @param {string | {id: string} | null} [done]
   * @returns {Promise<{position: string}>}
   */
  async ack(done = this.position) {
    const position = typeof done === "object" ? done?.id : done;
    if (!position) throw new CommandError("no_position", "nothing was handed on yet");
    if (this.#options.consumer === undefined) {
      throw new CommandError("no_consumer", "ack needs the option consumer");
    }
    return this.#ask({ cmd: "ack", data: { position } }, "subscribed");
  }

  /**
   * @param {string} token
   * @returns {Promise<void>}
   */
  async refresh(token) {
    this.#tokens.set(token);
    const connection = this.#link.connection;
    if (!connection?.isWelcomed || !connection.canSend) return;
    if (connection.token === token) return;
    connection.token = token;
    await this.#ask({ cmd: "refresh", data: { token } }, "connected");
  }

  pause() {
    if (!this.canPause) return false;
    this.#isPaused = true;
    this.#hold();
    return true;
  }

  resume() {
    this.#isPaused = false;
    this.#hold();
  }

  [Symbol.asyncIterator]() {
    const queue = this.#queues.add();
    if (this.state === "closed") this.#queues.end(null);
    return queue;
  }

  // The connection.

  #onDisconnected() {
    this.#cursor.disconnected();
    this.#commands.disconnected();
  }

  /**
   * @param {string} reason
   * @param {ClientError | null} error
   */
  #onFinished(reason, error) {
    this.#commands.rejectAll(
      new CommandError("closed", `the client is closed: ${reason}`),
    );
    this.#queues.end(error);
  }

  // Frames.

  /**
   * @param {Connection} connection
   * @param {Frame} frame
   */
  #onFrame(connection, frame) {
    this.#log("debug", "frame", frame);
    this.#emitter.emit("frame", frame);
    // Whoever saw it may have ended the connection.
    if (connection !== this.#link.connection || this.state === "closing") return;
    if (typeof frame.id === "string") this.#onEntry(frame);
    else if (!this.#commands.answer(frame)) this.#onNotice(connection, frame);
  }

  /** @param {Frame} frame */
  #onEntry(frame) {
    const id = /** @type {string} */ (frame.id);
    if (!this.#cursor.isNew(id)) {
      this.#log("debug", "was handed on already", { id });
      return;
    }
    // Every published event has a timestamp, also one that a publisher calls "skipped".
    if (frame.event === "skipped" && frame.timestamp === undefined) {
      const { seq, session, data } = frame;
      this.#emitter.emit("skipped", { id, seq, session, .../** @type {any} */ (data) });
    } else {
      this.#handOn(/** @type {BrokerEvent} */ (frame));
    }
    this.#cursor.advance(id);
  }

  /** @param {BrokerEvent} event */
  #handOn(event) {
    try {
      this.#options.store?.add(event);
    } catch (error) {
      this.#onThrow(error, "store");
    }
    this.#emitter.emit("event", event);
    this.#queues.push(event, this.#cursor.position);
  }

  /**
   * A frame of the broker itself, by PROTOCOL.md, "Frames from the server".
   *
   * @param {Connection} connection
   * @param {Frame} frame
   */
  #onNotice(connection, frame) {
    const { event, session } = frame;
    const data = /** @type {any} */ (frame.data ?? {});
    this.#cursor.note(frame);
    switch (event) {
      case "welcome":
        return this.#onWelcome(connection);
      case "subscribed":
        return this.#onSubscribed({ session, ...data });
      case "reset":
        return this.#onReset({ session, ...data });
      case "caught_up":
        return this.#emitter.emit(event, { session, ...data });
      case "gap": {
        const replaces = this.#cursor.noteGap();
        return this.#emitter.emit(event, { session, ...data, replaces });
      }
      case "present":
      case "joined":
      case "left":
        return this.#emitter.emit("presence", { type: event, session, ...data });
      case "token_expiring":
        this.#emitter.emit(event, data);
        return this.#renewInPlace(connection);
      case "closing":
        return this.#emitter.emit(event, data);
      case "error":
        return this.#onComplaint(data);
      default: // Unknown names are to be ignored.
    }
  }

  /** @param {Connection} connection */
  #onWelcome(connection) {
    // Before anybody hears of it and says something new.
    if (connection.canSend) this.#commands.flush("welcomed");
    else this.#commands.rejectAll(CommandError.noUpstream());
    this.#link.welcomed();
  }

  /** @param {Api.Subscribed} told */
  #onSubscribed(told) {
    this.#emitter.emit("subscribed", told);
    if (told.resume === "reset") this.#onReset(told);
    this.#commands.flush("subscribed");
    this.#hold();
  }

  /** @param {Api.Reset} told */
  #onReset({ session, from, tip }) {
    // Everything that the new history retains follows, much of it under the same ids.
    this.#options.store?.clear();
    this.#emitter.emit("reset", { session, from, tip });
  }

  /** @param {{code: string, message: string, ref?: string}} data */
  #onComplaint({ code, message, ref }) {
    if (ref === undefined) this.#emitError(new ClientError(code, message));
    else this.#log("debug", "an answer came too late", { code, ref });
  }

  /** @param {Connection} connection */
  async #renewInPlace(connection) {
    if (!this.#tokens.canRenew) return;
    try {
      await this.refresh(await this.#tokens.renew("expiring"));
    } catch (error) {
      // The old one ends the connection when its time has come; then it is asked again.
      this.#log("warn", "the token was not renewed", error);
      const isCurrent = connection === this.#link.connection;
      if (isCurrent) this.#emitError(/** @type {ClientError} */ (error));
    }
  }

  // Speaking.

  /**
   * @param {{cmd: string, id?: string, session?: string, data?: object}} frame
   * @param {Stage} stage
   * @param {number} [timeoutMs]
   */
  async #ask(frame, stage, timeoutMs = this.#options.commandTimeoutMs) {
    const connection = this.#link.connection;
    if (this.state === "closed" || this.state === "closing") {
      throw new CommandError("closed", "the client is closed");
    }
    if (this.state === "idle" || (stage === "connected" && !connection?.isWelcomed)) {
      throw new CommandError("not_connected", "the client is not connected", true);
    }
    const isDeaf = connection?.isWelcomed && !connection.canSend;
    if (isDeaf || !this.#options.transports.includes("websocket"))
      throw CommandError.noUpstream();
    this.#log("debug", "say", { cmd: frame.cmd, id: frame.id });
    return this.#commands.send(frame, timeoutMs, stage);
  }

  /**
   * @param {string} text
   * @param {Stage} stage
   */
  #transmit(text, stage) {
    const connection = this.#link.connection;
    if (!connection?.isWelcomed || !connection.canSend) return false;
    if (stage === "subscribed" && !connection.isSubscribed) return false;
    // The broker would close the connection, and the next one would say it again.
    if (sizeInBytes(text) > connection.maxFrameBytes) {
      throw new CommandError("too_large", "the command is larger than a frame may be");
    }
    connection.send(text);
    return true;
  }

  // Holding back.

  /** Read on or not, as the person and the loops that take events want it. */
  #hold() {
    const { connection } = this.#link;
    if (connection === null) this.#link.drained();
    else if (connection.isSubscribed) {
      if (!connection.canPause) {
        // What comes could be put nowhere; from the position it comes again.
        if (this.#queues.isFull) connection.fail(BUFFER_FULL);
      } else if (this.#isPaused || this.#queues.isFull) connection.pause();
      else connection.resume();
    }
  }

  // Telling.

  /** @param {ClientError} error */
  #emitError(error) {
    this.#log("error", error.message, { code: error.code });
    this.#emitter.emit("error", error);
  }

  /**
   * A listener has failed, which is its own affair.
   *
   * @param {unknown} cause
   * @param {string} name
   */
  #onThrow(cause, name) {
    this.#log("error", `a listener of ${name} failed`, cause);
    if (name !== "error" && this.#emitter.has("error")) {
      const message = `a listener of ${name} failed`;
      this.#emitter.emit("error", new ClientError("listener", message, { cause }));
    } else {
      this.#platform.console.error(`stream-broker-client: a listener of ${name}:`, cause);
    }
  }

  /**
   * @param {"error" | "warn" | "info" | "debug"} level
   * @param {string} message
   * @param {unknown} [fields]
   */
  #log(level, message, fields) {
    this.#options.logger?.[level](message, fields);
  }
}
