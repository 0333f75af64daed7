// What the broker says, for a person. Pure; PROTOCOL.md has what each of it means.

import { count, duration, many } from "./format.js";

const TRANSPORTS = { websocket: "WebSocket", sse: "event stream" };

const GAPS = {
  trimmed: "removed from the stream before they could be sent",
  transient: "transient: sent live only, and this is a replay",
  conflated: "replaced by newer ones with the same key",
  dropped: "dropped, because this page was too slow",
  reset: "lost with the former history",
};

const RESUMES = {
  live: "from now on",
  complete: "everything after the position follows",
  gap: "something after the position is gone; how much follows",
  reset: "the position is of another history; all that the new one has follows",
};

const ENDS = {
  draining: "the server is going away",
  slow: "this page was too slow",
  no_progress: "nothing was read for too long",
  overloaded: "the server sheds load",
  session_evicted: "evicted: a newer session took the place",
  session_closed: "the session was closed",
  unauthorized: "a valid token is needed",
  token_expired: "the token has expired",
  revoked: "access was revoked",
  forbidden: "not allowed here",
  not_found: "there is no such session",
  connection_replaced: "a newer connection took the place",
  connection_lost: "the connection is gone",
  unanswered: "the server no longer answered",
  silent: "nothing came for too long",
  connect_timeout: "the server did not answer",
  cannot_connect: "the browser refused to connect",
  offline: "there is no network",
  online: "the network is back",
  "cut by hand": "cut by hand",
  buffer_full: "too much waits to be read",
  no_token: "there is no token",
  client: "left",
};

export const describeTransport = (name) => TRANSPORTS[name] ?? "–";

/** Whether a gap is a loss, and not what was asked for. */
export const isLoss = ({ reason }) => !["transient", "conflated"].includes(reason);

/** A gap; `wasBefore`: nothing of it was there when this page came. */
export function describeGap(gap, wasBefore) {
  const { lost, reason, after, next } = gap;
  const why = GAPS[reason] ?? reason;
  if (wasBefore) {
    const number = lost === null ? "older events" : many(lost, "older event");
    return { tone: "", what: "Begins here", text: `${number} were removed from the stream before` };
  }
  const number = lost === null ? "an unknown number" : count(lost);
  const what = `Gap: ${number} missing`;
  return { tone: isLoss(gap) ? "bad" : "warn", what, text: `${why} · after ${short(after)}, before ${short(next)}` };
}

export function describeResume(resume, again) {
  const tone = { gap: "warn", reset: "bad" }[resume] ?? (again ? "good" : "");
  return { tone, text: RESUMES[resume] ?? resume };
}

/** Why a connection has ended, and when the client comes back. */
export function describeEnd({ reason, code }, retryInMs = null) {
  const why = ENDS[reason] ?? reason;
  const number = code && code !== 1000 ? ` (${code})` : "";
  const then = retryInMs === null ? "" : `; next try in ${duration(retryInMs)}`;
  return `${why}${number}${then}`;
}

const short = (position) => String(position).split("@")[0];
