// Reads one session, and says what happens in words and figures.

import { Client } from "../client.js";
import { Cutter } from "./cutter.js";
import { count, sizeOf } from "./format.js";
import { Latency, Rate } from "./latency.js";
import { describeEnd, describeGap, describeResume, describeTransport, isLoss } from "./words.js";

/**
 * Announced losses per connection and session, by PROTOCOL.md, "A client that keeps
 * accounts": a gap behind the last event is told again by the next connection.
 */
class Losses {
  #settled = 0;
  #aside = 0;
  #isExact = true;

  /** As a text: with a plus where nobody can know how many more. */
  get text() {
    return count(this.#settled + this.#aside) + (this.#isExact ? "" : "+");
  }

  gap({ lost, replaces }) {
    if (replaces) this.#aside = 0;
    this.#aside += lost ?? 0;
    this.#isExact &&= lost !== null;
  }

  event() {
    if (this.#aside) {
      this.#settled += this.#aside;
      this.#aside = 0;
    }
  }
}

/** One session as this page reads it: a client, and what is told of it. */
export class Visit {
  #client;
  #cutter = new Cutter();
  #losses = new Losses();
  #tell;
  #hasBegun = false;

  /**
   * @param {object} options  For the `Client`.
   * @param {{row: function(object), note: function(string, string, string),
   *   journal: function(string, string), change: function(), ended: function(object),
   *   presence: function(object), expiring: function(number)}} tell
   */
  constructor(options, tell) {
    this.#tell = tell;
    this.session = options.session;
    this.latency = new Latency();
    this.rate = new Rate();
    this.received = 0;
    this.reconnects = 0;
    /** Whether what comes now is live. */
    this.isLive = false;
    /** Who the broker says we are; null: nobody. */
    this.user = options.user ?? null;
    /** Performance time of the last frame. */
    this.heardAt = null;
    this.seq = null;
    this.#client = new Client({ ...options, platform: this.#cutter.platform });
    this.#listen();
  }

  get client() {
    return this.#client;
  }

  /** How many events were announced as lost, as a text. */
  get missing() {
    return this.#losses.text;
  }

  /** Go on where another client of the same session was. */
  carryOn(former) {
    this.latency = former.latency;
    this.rate = former.rate;
    this.user ??= former.user;
    this.received = former.received;
    this.reconnects = former.reconnects;
    this.#losses = former.#losses;
    this.#hasBegun = former.#hasBegun;
  }

  connect() {
    this.#client.connect();
  }

  close() {
    this.#client.close();
  }

  /** Cut the connection; the client comes back by itself. */
  drop() {
    this.#client.resume();
    this.#tell.journal("warn", "dropped by hand");
    this.#cutter.cut();
  }

  #listen() {
    const listeners = {
      frame: (frame) => this.#onFrame(frame),
      event: (event) => this.#onEvent(event),
      skipped: (entry) => this.#tell.note("warn", "Skipped", `${entry.message} (${entry.reason}), at ${entry.id}`),
      gap: (gap) => this.#onGap(gap),
      reset: () => this.#onReset(),
      subscribed: (told) => this.#onSubscribed(told),
      caught_up: (told) => this.#onCaughtUp(told),
      presence: (told) => this.#tell.presence(told),
      token_expiring: ({ expires_in_s: left }) => this.#tell.expiring(left),
      closing: (closing) => (this.closing = closing),
      state: (change) => this.#onState(change),
      error: (error) => error.code === "listener" && console.error(error.cause),
    };
    for (const [name, listener] of Object.entries(listeners)) this.#client.on(name, listener);
  }

  #onFrame(frame) {
    this.heardAt = performance.now();
    if (frame.event === "welcome" && frame.id === undefined) this.user = frame.data.user;
  }

  #onEvent(event) {
    const now = Date.now();
    const time = Date.parse(event.timestamp);
    const { id, seq, data, event: name, node_id: node } = event;
    const row = { kind: "event", id, seq, name, node, data, time, latency: now - time, live: this.isLive };
    row.bytes = 200 + sizeOf(data);
    this.received++;
    this.#hasBegun = true;
    this.seq = seq ?? null;
    this.rate.add();
    this.#losses.event();
    if (this.isLive) this.latency.add(now, row.latency);
    this.#tell.row(row);
  }

  #onGap(gap) {
    // What was trimmed before the first event was not there when the page came.
    const wasBefore = !this.#hasBegun && gap.reason === "trimmed";
    if (!wasBefore && isLoss(gap)) this.#losses.gap(gap);
    const { tone, what, text } = describeGap(gap, wasBefore);
    this.#tell.note(tone, what, text);
    if (tone === "bad") this.latency.mark(Date.now(), "bad");
  }

  #onReset() {
    this.#tell.note("bad", "Reset", "the stream is another one from here on: it was deleted, or Redis lost writes");
    this.#tell.journal("bad", "the stream was reset");
  }

  #onSubscribed({ resume }) {
    const again = this.#hasBegun || this.reconnects > 0;
    const { tone, text } = describeResume(resume, again);
    this.isLive = resume === "live";
    this.#tell.note(tone, again ? "Resumed" : "Subscribed", text);
    if (again) this.#tell.journal(tone, `resumed: ${resume}`);
    this.#tell.change();
  }

  #onCaughtUp({ replayed }) {
    this.isLive = true;
    const text = replayed ? `${replayed} replayed; from here on it is live` : "from here on it is live";
    this.#tell.note("good", "Caught up", text);
    if (replayed) this.#tell.journal("good", `caught up: ${replayed} replayed`);
    this.#tell.change();
  }

  #onState(change) {
    const { state, previous, retryInMs } = change;
    if (state === "open") {
      if (previous === "reconnecting") this.reconnects++;
      this.#tell.journal("good", `connected by ${describeTransport(this.#client.transport)}`);
      this.closing = null;
    } else if (state === "reconnecting") {
      this.isLive = false;
      this.#tell.journal("warn", describeEnd(change, retryInMs));
      if (previous === "open") {
        this.latency.mark(Date.now(), "warn");
        this.#tell.note("warn", "Disconnected", describeEnd(change, retryInMs));
      }
    } else if (state === "closed") {
      this.isLive = false;
      this.#tell.journal(change.reason === "client" ? "" : "bad", describeEnd(change));
      this.#tell.ended(change);
    }
    this.#tell.change();
  }
}
