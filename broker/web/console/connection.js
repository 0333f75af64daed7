// The panel of the connection, the figures, and the word at the top.

import { $, announce, el, say } from "./dom.js";
import { count, duration, shortClock } from "./format.js";
import { publish, repeat } from "./say.js";
import { describeTransport } from "./words.js";

const JOURNAL_MAX = 30;
const FILL_BYTES = 8 * 1024 * 1024;
const PIECE_BYTES = 12 * 1024;

/** What the state of a visit is: its colour, its name, and what else to say of it. */
export function nameOf(visit, ended) {
  if (visit === null) return ended ? endOf(ended) : ["off", "Not connected"];
  const { client, isLive } = visit;
  if (client.paused) return ["busy", "Paused"];
  switch (client.state) {
    case "open":
      return isLive ? ["good", "Live", ` by ${describeTransport(client.transport)}`] : ["busy", "Catching up"];
    case "reconnecting":
      return ["busy", "Reconnecting"];
    case "connecting":
      return ["busy", "Connecting"];
    default:
      return endOf(ended);
  }
}

function endOf(ended) {
  const names = { client: "Disconnected", session_evicted: "Evicted", unauthorized: "Token needed", token_expired: "Token expired" };
  const reason = ended?.reason ?? "client";
  return [reason === "client" ? "off" : "bad", names[reason] ?? "Refused"];
}

/** One more line at the top of the journal. */
export function writeJournal(tone, text) {
  const time = el("time", { textContent: shortClock(Date.now()) });
  $("journal").prepend(el("li", {}, time, el("span", { className: tone, textContent: text })));
  while ($("journal").children.length > JOURNAL_MAX) $("journal").lastChild.remove();
}

/** Paint everything that says how the connection is. */
export function paintConnection(visit, ended) {
  const [tone, name, more = ""] = nameOf(visit, ended);
  const [word, rest] = $("state").lastElementChild.children;
  if (word.textContent !== name) announce(name + more, { urgent: true });
  $("state").dataset.tone = tone;
  say(word, name);
  say(rest, more);
  const client = visit?.client;
  const isOpen = client?.state === "open";
  const isOver = !client || client.state === "closed" || client.state === "closing";
  say($("c-transport"), describeTransport(client?.transport));
  say($("c-id"), client?.connectionId ?? "–");
  $("drop").disabled = !isOpen;
  $("pause").disabled = !client?.paused && (!isOpen || !client.canPause);
  $("pause").setAttribute("aria-pressed", client?.paused ?? false);
  say($("pause"), client?.paused ? "Read on" : "Pause reading");
  $("pause").title = isOpen && !client.canPause
    ? "This browser reads WebSockets on its own; choose the event stream under Options"
    : "Stop reading; the server keeps the place";
  $("fill").hidden = !client?.paused;
  $("leave").disabled = !client;
  say($("leave"), isOver ? "Connect" : "Disconnect");
  if (!client?.paused) $("c-hint").hidden = true;
}

/** Paint what changes all the time; called twice a second. */
export function paintFigures(visit) {
  if (visit === null) return;
  const now = Date.now();
  const rate = visit.rate.tick(now);
  say($("f-rate"), rate > 0 && rate < 10 ? rate.toFixed(1) : count(Math.round(rate)));
  say($("f-received"), count(visit.received));
  say($("f-missing"), visit.missing);
  $("f-missing-box").classList.toggle("alert", visit.missing !== "0");
  say($("f-reconnects"), count(visit.reconnects));
  const summary = visit.latency.summary(now);
  say($("f-median"), summary ? duration(summary.median) : "–");
  say($("f-tail"), summary ? duration(summary.tail) : "–");
  say($("c-position"), visit.client.position ?? "–");
  const heard = visit.heardAt === null ? null : performance.now() - visit.heardAt;
  say($("c-heard"), heard === null ? "–" : heard < 1000 ? "just now" : `${duration(heard)} ago`);
}

/** What the chart shows, for those who do not see it. */
export function describeChart(summary) {
  if (summary === null) return "Latency of the last minute: nothing has come";
  const { median, tail, max } = summary;
  return `Latency of the last minute: median ${duration(median)}, 99 percent ${duration(tail)}, largest ${duration(max)}`;
}

/** Stop reading, or go on. */
export function togglePause(visit) {
  const { client } = visit;
  if (client.paused) {
    client.resume();
    writeJournal("", "reading on");
  } else if (client.pause()) {
    writeJournal("warn", "paused: nothing is read");
    hint("Nothing is read now. When all buffers in between are full, the server keeps only the position, and calls this connection lagging.");
  }
}

/** Publish so much that every buffer between the broker and this page is full. */
export async function fillPipe(session, token, maxEventBytes) {
  const bytes = Math.min(PIECE_BYTES, Math.floor(maxEventBytes / 2));
  const pieces = Math.min(1000, Math.ceil(FILL_BYTES / bytes));
  const event = { session, event: "filler", data: "x".repeat(bytes), node_id: "console" };
  $("fill").disabled = true;
  try {
    await repeat(pieces, () => publish(event, token));
    hint(`${pieces} events of ${Math.round(bytes / 1024)} KiB wait. Read on: the server sends them from the position that it kept.`);
    writeJournal("", `published ${pieces} large events`);
  } catch (error) {
    hint(`They could not be published: ${error.message}`);
  } finally {
    $("fill").disabled = false;
  }
}

function hint(text) {
  say($("c-hint"), text);
  $("c-hint").hidden = false;
}
