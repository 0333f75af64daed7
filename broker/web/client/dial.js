import { Connection } from "./connection.js";
import { EventStreamTransport } from "./event_stream.js";
import { buildUrl } from "./url.js";
import { WebSocketStreamTransport, WebSocketTransport } from "./websocket.js";

/** @import { Platform, TransportName, UrlOptions } from "../client.js" */
/** @import { readOptions } from "./options.js" */
/** @import { TransportHooks } from "./websocket.js" */

/** @typedef {ReturnType<typeof readOptions>} Options */

/**
 * A connection that is not started yet.
 *
 * @param {Platform} platform
 * @param {Options} options
 * @param {{name: TransportName, token: string | null, from: string | null,
 *          takeover: boolean}} how `from` is the position to resume from.
 * @param {ConstructorParameters<typeof Connection>[2]} hooks
 */
export function makeConnection(platform, options, how, hooks) {
  const { name, token } = how;
  const request = { ...requestOf(options, platform, how), token };
  options.logger?.info("connecting", { url: request.url, transport: name });
  const Transport = transportOf(name, options, platform);
  const open = (/** @type {TransportHooks} */ own) =>
    new Transport(platform, request, own);
  return new Connection(platform, { name, token, open }, hooks);
}

/**
 * Whether a connection of this kind can stop reading.
 *
 * @param {TransportName} name
 * @param {Options} options
 * @param {Platform} platform
 */
export function canPause(name, options, platform) {
  return name === "sse" || (options.pausable && platform.WebSocketStream !== null);
}

/**
 * @param {TransportName} name
 * @param {Options} options
 * @param {Platform} platform
 */
function transportOf(name, options, platform) {
  if (name === "sse") return EventStreamTransport;
  return canPause(name, options, platform)
    ? WebSocketStreamTransport
    : WebSocketTransport;
}

/**
 * @param {Options} options
 * @param {Platform} platform
 * @param {{name: TransportName, from: string | null, takeover: boolean}} how
 * @returns {{url: string, lastEventId: string | null}} `lastEventId` is for a header.
 */
function requestOf(options, platform, { name, from, takeover }) {
  const page = platform.location?.href;
  /** @type {UrlOptions} */
  const wanted = { ...options, transport: name, page, takeover, lastEventId: undefined };
  if (from === null) return { url: buildUrl(wanted), lastEventId: null };
  wanted.since = undefined; // Only to begin with.
  const url = buildUrl(wanted);
  // A header of our own is asked about first (CORS) if the broker is not the page's host.
  const isForeign = page !== undefined && new URL(page).origin !== new URL(url).origin;
  if (name === "sse" && !isForeign) return { url, lastEventId: from };
  return { url: buildUrl({ ...wanted, lastEventId: from }), lastEventId: null };
}
