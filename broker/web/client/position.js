/** @import { ParsedPosition } from "../client.js" */

/**
 * Positions: `<ms>-<n>` or `<ms>-<n>@<seq>`. Both numbers are unsigned 64-bit, more than
 * a JavaScript number holds, so they are compared as BigInt.
 */

const FORM = /^(\d{1,20})-(\d{1,20})(?:@(\d{1,20}))?$/;

/**
 * Take a position apart.
 *
 * @param {unknown} text
 * @returns {ParsedPosition | null} Null if it is no position; `0` and `-100` are none.
 */
export function parsePosition(text) {
  const parts = typeof text === "string" ? FORM.exec(text) : null;
  if (parts === null) return null;
  const [, ms, n, seq] = parts;
  return {
    ms: BigInt(ms),
    n: BigInt(n),
    seq: seq === undefined ? null : BigInt(seq),
  };
}

/**
 * Which of two places in a stream is later; the ordinal plays no part in it.
 *
 * @param {ParsedPosition} a
 * @param {ParsedPosition} b
 * @returns {-1 | 0 | 1}
 */
export function comparePlaces(a, b) {
  if (a.ms !== b.ms) return a.ms < b.ms ? -1 : 1;
  if (a.n !== b.n) return a.n < b.n ? -1 : 1;
  return 0;
}

/**
 * The same for positions as they stand on the wire.
 *
 * @param {string} a
 * @param {string} b
 * @returns {-1 | 0 | 1}
 * @throws {TypeError} One of them is no position.
 */
export function comparePositions(a, b) {
  const places = [a, b].map(parsePosition);
  if (places[0] === null || places[1] === null) {
    throw new TypeError("a position is <ms>-<n> or <ms>-<n>@<seq>");
  }
  return comparePlaces(places[0], places[1]);
}
