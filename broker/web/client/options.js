import { parsePosition } from "./position.js";
import { buildUrl, isSessionName } from "./url.js";

/** @import { ClientOptions, Platform, TransportName } from "../client.js" */

/** @type {readonly TransportName[]} */
const TRANSPORTS = ["websocket", "sse"];

const DEFAULTS = {
  transports: TRANSPORTS,
  pausable: false,
  fallbackAfter: 2,
  bufferSize: 1000,
  connectTimeoutMs: 10_000,
  commandTimeoutMs: 10_000,
};
const TIME = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/i;
const BACKOFF = { minMs: 500, maxMs: 30_000 };

/**
 * Fill in what is not given.
 *
 * @param {ClientOptions} options
 * @param {Platform} platform
 * @throws {TypeError} One of them cannot be used.
 */
export function readOptions(options, platform) {
  // Null as well: that is what localStorage gives for a position that it has not.
  const given = Object.entries(options).filter(([, value]) => value != null);
  const read = {
    ...DEFAULTS,
    .../** @type {ClientOptions} */ (Object.fromEntries(given)),
    backoff: { ...BACKOFF, ...options.backoff },
  };
  check(read);
  const { transports } = read;
  const usable = transports.filter((name) => isUsable(name, read.pausable, platform));
  // Without any, the first attempt says so.
  read.transports = usable.length ? usable : transports;
  buildUrl({ ...read, lastEventId: undefined, page: platform.location?.href }); // Or throws.
  return read;
}

/**
 * Refuse here what the broker would: a page cannot see the status of its answer, and would
 * ask for the same again and again.
 *
 * @param {ClientOptions & {transports: readonly TransportName[]}} options
 */
function check({ session, transports, ackMode, consumer, lastEventId, since, overflow }) {
  const places = [
    [isSessionName(session), "session is 1 to 128 letters, digits and . _ : @ -"],
    [
      transports.length > 0 && transports.every((name) => TRANSPORTS.includes(name)),
      "transports are websocket, sse, or both in the wanted order",
    ],
    [
      consumer === undefined || (isSessionName(consumer) && consumer.length <= 64),
      "consumer is 1 to 64 letters, digits and . _ : @ -",
    ],
    [ackMode === undefined || consumer !== undefined, "ackMode needs a consumer"],
    [isOneOf(ackMode, ["manual", "auto"]), "ackMode is manual or auto"],
    [
      isOneOf(overflow, ["lag", "latest", "drop", "close"]),
      "overflow is lag, latest, drop or close",
    ],
    [lastEventId == null || isStart(lastEventId), "lastEventId is a position, 0 or -N"],
    [since === undefined || TIME.test(since), "since is a time of RFC 3339"],
  ];
  for (const [isRight, message] of places) {
    if (!isRight) throw new TypeError(/** @type {string} */ (message));
  }
}

/** @param {string} text */
function isStart(text) {
  return text === "0" || /^-[1-9]\d*$/.test(text) || parsePosition(text) !== null;
}

/**
 * @param {string | undefined} value
 * @param {readonly string[]} allowed
 */
function isOneOf(value, allowed) {
  return value === undefined || allowed.includes(value);
}

/**
 * @param {TransportName} name
 * @param {boolean} pausable
 * @param {Platform} platform
 */
function isUsable(name, pausable, { WebSocket, WebSocketStream, fetch }) {
  if (name === "sse") return fetch !== null;
  return WebSocket !== null || (pausable && WebSocketStream !== null);
}
