/** @import { UrlOptions } from "../client.js" */

const SESSION_NAME = /^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$/;
const SCHEME = /^[a-z][a-z0-9+.-]*:\/\//i;
const IPV6 = /^[0-9a-f]*:[0-9a-f]*:[0-9a-f:.]*$/i;
const LOOPBACK = /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/;
const SECURE = new Set(["https:", "wss:"]);

const QUERY = /** @type {const} */ ([
  ["last_event_id", "lastEventId"],
  ["since", "since"],
  ["consumer", "consumer"],
  ["ack", "ackMode"],
  ["overflow", "overflow"],
  ["presence", "presence"],
  ["takeover", "takeover"],
  ["user", "user"],
]);

/**
 * Whether *name* can be the name of a session.
 *
 * @param {unknown} name
 * @returns {name is string}
 */
export function isSessionName(name) {
  return typeof name === "string" && SESSION_NAME.test(name);
}

/**
 * The URL of one session's events. There is never a token in it: URLs end up in logs.
 *
 * `http` becomes `ws` and `https` becomes `wss` for a WebSocket, and the other way round
 * for an event stream. A URL without a scheme takes that of the page. On a page that came
 * by https an insecure target is made secure, since the browser refuses it otherwise;
 * only this machine itself may stay as it is.
 *
 * @param {UrlOptions} options
 * @returns {string}
 * @throws {TypeError} The URL cannot be used, or names a user or a token.
 */
export function buildUrl(options) {
  const { transport = "websocket" } = options;
  const page = options.page ?? globalThis.location?.href;
  const url = resolve(options.url ?? "", page);
  if (url.username || url.password || url.searchParams.has("token")) {
    throw new TypeError("no user and no token in the URL: use the option token");
  }
  const secure = SECURE.has(url.protocol) || mustBeSecure(url, page);
  const prefix = url.pathname.replace(/\/+$/, "");
  const [scheme, route] = transport === "sse" ? ["http", "sse"] : ["ws", "ws"];
  const path = `${prefix}/v1/${route}/${encodeURIComponent(options.session)}`;
  const query = url.searchParams;
  for (const [name, option] of QUERY) {
    const value = options[option];
    if (value === true) query.set(name, "1");
    else if (typeof value === "string" && value !== "") query.set(name, value);
  }
  const search = [...query].length ? `?${query}` : "";
  return `${scheme}${secure ? "s" : ""}://${url.host}${path}${search}`;
}

/**
 * @param {string} text
 * @param {string | undefined} page
 * @returns {URL}
 */
function resolve(text, page) {
  let url;
  try {
    url = new URL(absolute(text, page), page);
  } catch {
    throw new TypeError("the URL must look like http://127.0.0.1:8080");
  }
  if (!/^(https?|wss?):$/.test(url.protocol)) {
    throw new TypeError("the URL begins with http, https, ws or wss");
  }
  return url;
}

/**
 * @param {string} text
 * @param {string | undefined} page
 * @returns {string}
 */
function absolute(text, page) {
  if (SCHEME.test(text)) return text;
  // Of the page only where it came from: its path is no prefix of the broker's.
  if (text === "") return new URL("/", page).href;
  if (text.startsWith("/")) return text;
  const scheme = page !== undefined && SECURE.has(new URL(page).protocol);
  const host = IPV6.test(text) ? `[${text}]` : text;
  return `${scheme ? "https" : "http"}://${host}`;
}

/**
 * @param {URL} url
 * @param {string | undefined} page
 */
function mustBeSecure(url, page) {
  if (page === undefined || new URL(page).protocol !== "https:") return false;
  return !LOOPBACK.test(url.hostname);
}
