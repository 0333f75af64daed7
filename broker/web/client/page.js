/** @import { Platform } from "../client.js" */

/**
 * Tells when the page has slept or the network has changed.
 *
 * @param {Platform} platform
 * @param {{woke: () => void, online: () => void, offline: () => void}} hooks
 * @returns {() => void} Ends it.
 */
export function watchPage({ document, window }, hooks) {
  /** @type {(() => void)[]} */
  const endings = [];
  /**
   * @param {EventTarget | null} target
   * @param {string} name
   * @param {(event: any) => void} listener
   */
  const listen = (target, name, listener) => {
    if (!target?.addEventListener) return;
    target.addEventListener(name, listener);
    endings.push(() => target.removeEventListener(name, listener));
  };
  listen(document, "visibilitychange", () => {
    if (document?.visibilityState === "visible") hooks.woke();
  });
  listen(document, "resume", hooks.woke); // After a freeze (Page Lifecycle).
  listen(window, "pageshow", (event) => {
    if (event.persisted) hooks.woke(); // Back from the back-forward cache.
  });
  listen(window, "online", hooks.online);
  listen(window, "offline", hooks.offline);
  return () => {
    for (const end of endings.splice(0)) end();
  };
}
