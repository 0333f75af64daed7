// Frames as the broker sends them.

export function welcome(more = {}) {
  const data = { connection_id: "c0ffee", user: null, heartbeat_s: 25, ...more };
  return { event: "welcome", data: { max_frame_bytes: 65536, ...data } };
}

export function subscribed(data = {}) {
  const told = { resume: "live", from: "5-0@5", tip: "5-0@5", ...data };
  return { event: "subscribed", session: "s1", data: told };
}

export function event(id, more = {}) {
  const timestamp = "2026-01-01T00:00:00Z";
  return { id, session: "s1", event: "note", data: null, timestamp, ...more };
}

export function closing(data) {
  return { event: "closing", data };
}

export function gap(more = {}) {
  const data = { after: "1-0@1", next: "5-0@5", lost: 3, exact: true, reason: "trimmed" };
  return { event: "gap", session: "s1", data: { ...data, ...more } };
}
