/**
 * The browser client of the broker: events that are resumed and never handed on twice,
 * commands that are stored once.
 *
 * One import, no dependency, no build step: load this file by its URL. What is behind
 * each name is in `client/`, one idea per file; `client.d.ts` has the types.
 *
 * @module stream-broker-client
 */

export { backoffMs } from "./client/backoff.js";
export { Client } from "./client/client.js";
export { ClientError, CommandError } from "./client/errors.js";
export { EventLogger } from "./client/logger.js";
export { comparePositions, parsePosition } from "./client/position.js";
export { SseParser } from "./client/sse.js";
export { EventStore } from "./client/store.js";
export { buildUrl, isSessionName } from "./client/url.js";
export { judgeCode } from "./client/verdict.js";
