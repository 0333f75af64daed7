/**
 * What the end of a connection means. The number alone says it (PROTOCOL.md, "Close
 * codes"): 4000 to 4499 come back, 4500 to 4999 do not. Below 1000 it is the HTTP status
 * of an event stream that was refused.
 */

/** Closed without a word: a cut, a refusal that a page cannot see, or our own verdict. */
export const ABNORMAL = 1006;
export const NORMAL = 1000;

// What the broker says to a client that broke the protocol, and 1000 when it is done.
const FINAL_BELOW_4000 = new Set([NORMAL, 1002, 1003, 1007, 1009]);
// 204 is how an event stream says any refusal for good, also that of a token.
const RENEWABLE = new Set([204, 401, 4501, 4510]);
const RETRIED_STATUSES = new Set([408, 425, 429]);

/**
 * @param {number} code A close code, or an HTTP status.
 * @returns {"retry" | "renew" | "stop"} Come back and resume; come back with another
 *   token; or do not come back.
 */
export function judgeCode(code) {
  if (RENEWABLE.has(code)) return "renew";
  if (code < 1000) {
    return code >= 500 || RETRIED_STATUSES.has(code) ? "retry" : "stop";
  }
  if (code >= 4500 && code < 5000) return "stop";
  return FINAL_BELOW_4000.has(code) ? "stop" : "retry";
}
