// Puts the console together: what is asked of the page, and what goes where.

import { askForToken, hideBanner, showBanner } from "./banner.js";
import { Chart } from "./chart.js";
import { describeChart, fillPipe, paintConnection, paintFigures, togglePause, writeJournal } from "./connection.js";
import { $, announce, el, keep, recall } from "./dom.js";
import { setUpKeys } from "./keys.js";
import { setUpSay } from "./say.js";
import { freshName, People, REOPENED, Sessions } from "./sessions.js";
import { Stream } from "./stream.js";
import { setUpTheme } from "./theme.js";
import { Visit } from "./visit.js";
import { describeEnd } from "./words.js";

const FIGURES_MS = 500;
const CHART_MS = 100;
const WITHOUT_TOKEN = new Set(["unauthorized", "token_expired", "revoked", "no_token"]);

const config = await readConfig();
const asksForToken = config.auth === "token";
const broker = new URL("..", location.href).href;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const stream = new Stream();
const people = new People();
let visit = null;
let ended = null;
/** Only here: never in a URL, never in storage. */
let token = "";

const sessions = new Sessions({
  limit: config.max_sessions_per_user,
  options: (session) => clientOptions(session, { lastEventId: undefined }),
  reopen: () => open(visit.session, { takeover: true }),
});

async function readConfig() {
  try {
    const answer = await fetch("config.json", { cache: "no-store" });
    return await answer.json();
  } catch (error) {
    showBanner("The broker does not answer.", [["Try again", () => location.reload()]]);
    throw error;
  }
}

// Reading a session.

function clientOptions(session, more) {
  return {
    url: broker,
    session,
    user: asksForToken ? undefined : $("user").value || undefined,
    token: token || undefined,
    lastEventId: $("begin").value || undefined,
    overflow: $("overflow").value,
    transports: $("transports").value.split(","),
    pausable: true,
    ...more,
  };
}

/**
 * Read a session; the one before is left.
 * @param {string} session
 * @param {{takeover?: boolean, anew?: boolean}} how  Unless *anew*, what is on the
 *   screen stays, and the same session goes on from the position that it had.
 */
function open(session, { takeover = false, anew = false } = {}) {
  const former = visit;
  const isSame = former?.session === session && !anew;
  // What it says from here on does not concern the page any more.
  visit = null;
  former?.close();
  hideBanner();
  if (!isSame) startAnew(session);
  if (asksForToken && !token) {
    ended = { reason: "unauthorized" };
    needToken("This broker asks for a token. It stays in this page and is forgotten with it.");
    paint();
    return;
  }
  const options = clientOptions(session, { takeover, presence: config.presence });
  if (isSame) options.lastEventId = former.client.position ?? options.lastEventId;
  try {
    visit = newVisit(options, isSame ? former : null);
  } catch (error) {
    showBanner(error.message);
    paint();
    return;
  }
  ended = null;
  chart.show(visit.latency);
  visit.connect();
  paint();
}

function newVisit(options, former) {
  const own = new Visit(options, {
    row: (row) => stream.add(row),
    note: (tone, what, text) => {
      stream.note(tone, what, text);
      if (tone === "bad") announce(`${what}: ${text}`);
    },
    journal: writeJournal,
    change: () => own === visit && onChange(),
    ended: (change) => own === visit && onEnded(change),
    presence: (told) => own === visit && people.take(told, visit.user),
    expiring: (left) => needToken(`The token ends in ${Math.round(left)} s.`, (fresh) => visit.client.refresh(fresh)),
  });
  if (former) own.carryOn(former);
  return own;
}

function startAnew(session) {
  stream.clear();
  people.take(null);
  $("session").value = session;
  $("journal").replaceChildren();
  history.replaceState(null, "", `#${session}`);
  document.title = `${session} · Broker console`;
  keep("session", session);
  stream.explain(`Nothing has come in ${session} yet`, "Publish an event here, or from a shell:",
    el("code", { textContent: `broker publish ${session} note '{"text":"hello"}'` }));
}

function onChange() {
  const { state } = visit.client;
  const states = { open: "open", closed: "gone", closing: "gone" };
  sessions.own(visit.session, visit.user);
  sessions.ownState(states[state] ?? "opening", ended ?? { reason: "client" }, visit.closing);
  if (state !== "open") people.take(null);
  paint();
}

function onEnded(change) {
  ended = change;
  const { reason } = change;
  if (reason === "client") return;
  stream.note("bad", "Ended", describeEnd(change));
  if (REOPENED.has(reason)) {
    const by = visit.closing?.replaced_by;
    const why = by ? `${visit.user} has opened ${by}, and this was the oldest of the sessions` : describeEnd(change);
    showBanner(`This session has ended: ${why}.`, [["Open it again", () => open(visit.session, { takeover: true })]]);
  } else if (WITHOUT_TOKEN.has(reason) && asksForToken) {
    token = "";
    needToken(`The token was not taken: ${describeEnd(change)}.`);
  } else {
    const hint = reason === "forbidden" ? " Either the token does not allow it, or this page's address is not in BROKER_ORIGINS." : "";
    showBanner(`The broker refuses: ${describeEnd(change)}.${hint}`, [["Try again", () => open(visit.session)]]);
  }
}

function needToken(text, refresh) {
  askForToken(text, refresh ? "Renew" : "Connect", async (given) => {
    token = given;
    if (!refresh) {
      open($("session").value);
      return;
    }
    try {
      await refresh(given);
      hideBanner();
    } catch (error) {
      needToken(`This one was not taken: ${error.message}.`, refresh);
    }
  });
}

// Painting.

const canvas = $("chart");
const chart = new Chart(canvas);

function paint() {
  paintConnection(visit, ended);
  paintFigures(visit);
}

let drawn = 0;
function animate(now) {
  // Nothing is drawn that nobody sees: in the background no frame is asked for at all.
  if (now - drawn >= (calm.matches ? FIGURES_MS : CHART_MS) && canvas.clientWidth) {
    drawn = now;
    chart.draw(Date.now());
  }
  requestAnimationFrame(animate);
}

setInterval(() => {
  paintFigures(visit);
  if (visit) canvas.setAttribute("aria-label", describeChart(visit.latency.summary(Date.now())));
}, FIGURES_MS);

// What people do.

function leaveOrConnect() {
  if (visit && visit.client.state !== "closed") visit.close();
  else open($("session").value);
}

function goTo(view) {
  document.body.dataset.view = view;
  for (const button of document.querySelectorAll(".views [data-goto]")) {
    if (button.dataset.goto === view) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

const press = (id) => () => !$(id).disabled && !$(id).hidden && $(id).click();
const focus = (id, view) => () => {
  goTo(view ?? document.body.dataset.view);
  $(id).focus();
  $(id).select?.();
};

$("picker").addEventListener("submit", (event) => {
  event.preventDefault();
  open($("session").value, { anew: true });
});
$("fresh").addEventListener("click", () => open(freshName(), { anew: true }));
$("drop").addEventListener("click", () => visit.drop());
$("pause").addEventListener("click", () => {
  togglePause(visit);
  paint();
});
$("fill").addEventListener("click", () => fillPipe(visit.session, token, config.max_event_bytes));
$("leave").addEventListener("click", leaveOrConnect);
$("options-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("token").value) token = $("token").value.trim();
  $("token").value = "";
  keep("user", $("user").value);
  open($("session").value, { anew: true });
});
for (const button of document.querySelectorAll(".views [data-goto]")) {
  button.addEventListener("click", () => goTo(button.dataset.goto));
}
window.addEventListener("hashchange", () => {
  const session = location.hash.slice(1);
  if (session && session !== visit?.session) open(session, { anew: true });
});

setUpSay({
  session: () => $("session").value,
  token: () => token,
  send: (cmd, data) => {
    if (!visit) throw new Error("there is no connection");
    return visit.client.send(cmd, data);
  },
});
const nextTheme = setUpTheme(() => chart.recolour());
setUpKeys([
  { keys: ["j", "k"], what: "next event, previous one", run: (key) => stream.move(key === "j" ? 1 : -1) },
  { keys: ["f"], what: "follow the newest", run: () => stream.follow(!stream.following) },
  { keys: ["/"], what: "search", run: focus("search", "stream") },
  { keys: ["c"], what: "clear the list", run: () => stream.clear() },
  { keys: ["d"], what: "drop the connection", run: press("drop") },
  { keys: ["p"], what: "pause reading, read on", run: press("pause") },
  { keys: ["o"], what: "open another session", run: press("s-open") },
  { keys: ["e"], what: "write an event", run: focus("p-data", "say") },
  { keys: ["s"], what: "choose a session", run: focus("session") },
  { keys: ["t"], what: "other colours", run: nextTheme },
  { keys: ["Escape"], what: "close the event", always: true, run: () => stream.close() },
]);

// The beginning.

$("user").value = recall("user", "console");
$("user-field").hidden = asksForToken;
$("token-field").hidden = !asksForToken;
for (const name of new Set([config.session, recall("session", "")])) {
  if (name) $("known-sessions").append(el("option", { value: name }));
}
goTo("stream");
requestAnimationFrame(animate);
const first = location.hash.slice(1) || config.session || recall("session", "");
if (first) open(first);
else {
  stream.explain("Choose a session", "Its name goes into the field at the top.");
  $("session").focus();
  paint();
}
