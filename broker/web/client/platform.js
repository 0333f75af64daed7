/** @import { Platform } from "../client.js" */

/**
 * Everything that this client takes from its surroundings, in one place.
 *
 * @param {Partial<Platform>} [overrides] For tests and other runtimes. Null: not there.
 * @returns {Platform}
 */
export function resolvePlatform(overrides = {}) {
  const here = /** @type {any} */ (globalThis);
  const given = Object.entries(overrides).filter(([, value]) => value !== undefined);
  return {
    WebSocket: here.WebSocket ?? null,
    WebSocketStream: here.WebSocketStream ?? null,
    // Called as methods of the global object: a browser refuses them otherwise.
    fetch: here.fetch?.bind(here) ?? null,
    setTimeout: here.setTimeout.bind(here),
    clearTimeout: here.clearTimeout.bind(here),
    // Not the monotonic clock: in some browsers that stands still while the machine
    // sleeps, which is what the liveness check has to notice.
    now: Date.now,
    random: Math.random,
    randomId,
    document: here.document ?? null,
    window: here.addEventListener ? here : null,
    navigator: here.navigator ?? null,
    location: here.location ?? null,
    console: here.console,
    ...Object.fromEntries(given),
  };
}

/** 128 random bits. `crypto.randomUUID` is missing on pages that came by plain http. */
function randomId() {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
