/**
 * How long to wait before attempt number *attempt*: anywhere between nothing and a bound
 * that doubles (full jitter), so that clients which left together do not return together.
 *
 * @param {number} attempt 0 for the first.
 * @param {{minMs: number, maxMs: number}} bounds
 * @param {() => number} [random] From 0 to below 1.
 * @returns {number} Milliseconds.
 */
export function backoffMs(attempt, { minMs, maxMs }, random = Math.random) {
  // Beyond 2 ** 30 every bound that makes sense is reached, and nothing overflows.
  const boundMs = Math.min(maxMs, minMs * 2 ** Math.min(attempt, 30));
  return random() * boundMs;
}
