/** @import * as Api from "../client.js" */
/** @import { EventLoggerOptions, LogLevel } from "../client.js" */

const LEVELS = /** @type {const} */ (["off", "error", "warn", "info", "debug"]);
const SECRET_NAME = /token|authorization|password|secret|credential|api_?key/i;
// A JSON Web Token, a key of the broker, and whatever stands behind "bearer".
const SECRET_TEXT =
  /\b(?:eyJ[\w-]+\.[\w-]+\.[\w-]*|bk_[\w-]{8,})|\b(bearer[. ])[^\s,"']+/gi;
const REDACTED = "[redacted]";
const MAX_CHARS = 500;
const MAX_DEPTH = 6;

/**
 * Tells a developer what the client does. Off unless a level is given; no token gets
 * into what it writes.
 *
 * @implements {Api.EventLogger}
 */
export class EventLogger {
  #rank = 0;
  #sink;
  #prefix;
  /** @type {Set<string>} */
  #secrets = new Set();

  /** @param {EventLoggerOptions} [options] */
  constructor({ level = "off", sink = globalThis.console, prefix = "broker" } = {}) {
    this.#sink = sink;
    this.#prefix = prefix;
    this.level = level;
  }

  /** @returns {LogLevel} */
  get level() {
    return LEVELS[this.#rank];
  }

  set level(level) {
    const rank = LEVELS.indexOf(level);
    if (rank < 0) throw new TypeError(`a level is one of ${LEVELS.join(", ")}`);
    this.#rank = rank;
  }

  /**
   * Never write this text, wherever it turns up.
   *
   * @param {string} secret
   */
  protect(secret) {
    if (secret !== "") this.#secrets.add(secret);
  }

  /** @param {string} message @param {unknown} [fields] */
  error(message, fields) {
    this.#write("error", message, fields);
  }

  /** @param {string} message @param {unknown} [fields] */
  warn(message, fields) {
    this.#write("warn", message, fields);
  }

  /** @param {string} message @param {unknown} [fields] */
  info(message, fields) {
    this.#write("info", message, fields);
  }

  /** @param {string} message @param {unknown} [fields] */
  debug(message, fields) {
    this.#write("debug", message, fields);
  }

  /**
   * @param {Exclude<LogLevel, "off">} level
   * @param {string} message
   * @param {unknown} fields
   */
  #write(level, message, fields) {
    if (LEVELS.indexOf(level) > this.#rank) return;
    const text = `[${this.#prefix}] ${this.#clean(message)}`;
    if (fields === undefined) this.#sink[level](text);
    else this.#sink[level](text, this.#redact(fields, 0));
  }

  /**
   * @param {unknown} value
   * @param {number} depth
   * @returns {unknown}
   */
  #redact(value, depth) {
    if (typeof value === "string") return this.#clean(value);
    if (typeof value !== "object" || value === null) return value;
    if (depth === MAX_DEPTH) return "[...]";
    if (value instanceof Error) return this.#clean(`${value.name}: ${value.message}`);
    if (Array.isArray(value)) return value.map((item) => this.#redact(item, depth + 1));
    const copy = Object.entries(value).map(([name, item]) => [
      name,
      // A flag or a number beside such a name is no secret, and worth reading.
      SECRET_NAME.test(name) && typeof item === "string"
        ? REDACTED
        : this.#redact(item, depth + 1),
    ]);
    return Object.fromEntries(copy);
  }

  /** @param {string} text */
  #clean(text) {
    let clean = text;
    for (const secret of this.#secrets) clean = clean.replaceAll(secret, REDACTED);
    clean = clean.replace(SECRET_TEXT, (_all, scheme = "") => scheme + REDACTED);
    // Cut last: half a token would not be known for one.
    return clean.length > MAX_CHARS ? `${clean.slice(0, MAX_CHARS)}...` : clean;
  }
}
