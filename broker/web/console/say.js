// Publishing events as a service would, and sending commands as a user would.

import { $, say } from "./dom.js";
import { duration, many } from "./format.js";

const AT_ONCE = 8;

/** A refusal of the broker's, in its own words. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/**
 * Publish one event.
 * @param {{session: string, event: string, data: *, node_id?: string, transient?: boolean}} event
 * @param {string} token  Empty for none.
 * @returns {Promise<string>} The id of the entry.
 * @throws {Refused}
 */
export async function publish(event, token) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch("publish", { method: "POST", headers, body: JSON.stringify(event), cache: "no-store" });
  } catch {
    throw new Refused(0, "unreachable", "the broker cannot be reached");
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body.id;
  const { code = "", message = `HTTP ${answer.status}` } = body.error ?? {};
  throw new Refused(answer.status, code, message);
}

/** Do a number of things, a few of them at a time; the first failure ends it. */
export async function repeat(times, act) {
  let next = 0;
  let last;
  const lane = async () => {
    while (next < times) last = await act(next++);
  };
  try {
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, times) }, lane));
  } catch (error) {
    next = times;
    throw error;
  }
  return last;
}

/**
 * Makes both forms work.
 * @param {{session: function(): string, token: function(): string,
 *   send: function(string, object): Promise<*>}} page
 */
export function setUpSay(page) {
  setUpTabs();
  $("publish").addEventListener("submit", (event) => {
    event.preventDefault();
    withJson($("p-data"), $("p-result"), async (data) => {
      const times = Math.min(1000, Math.max(1, Number($("p-times").value) || 1));
      const one = { session: page.session(), event: $("p-event").value, data };
      if ($("p-transient").checked) one.transient = true;
      const start = performance.now();
      const id = await repeat(times, () => publish(one, page.token()));
      const took = duration(performance.now() - start);
      return times === 1 ? `Stored as ${id}, in ${took}` : `${many(times, "event")} stored in ${took}`;
    });
  });
  $("command").addEventListener("submit", (event) => {
    event.preventDefault();
    withJson($("m-data"), $("m-result"), async (data) => {
      const start = performance.now();
      const answer = await page.send($("m-cmd").value, data);
      const took = duration(performance.now() - start);
      const id = answer?.data?.id ?? answer?.id;
      return id ? `Stored as ${id}, in ${took}` : `Answered in ${took}: ${JSON.stringify(answer)}`;
    });
  });
  for (const area of [$("p-data"), $("m-data")]) {
    area.addEventListener("input", () => area.removeAttribute("aria-invalid"));
    area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      area.form.requestSubmit();
    });
  }
}

async function withJson(area, result, act) {
  tell(result, "", "");
  let data;
  try {
    data = area.value.trim() === "" ? null : JSON.parse(area.value);
  } catch (error) {
    area.setAttribute("aria-invalid", "true");
    area.focus();
    tell(result, `This is not JSON: ${error.message}`, "bad");
    return;
  }
  const button = area.form.querySelector("[type=submit]");
  button.disabled = true;
  try {
    tell(result, await act(data), "good");
  } catch (error) {
    tell(result, error.code ? `${error.message} (${error.code})` : error.message, "bad");
  } finally {
    button.disabled = false;
  }
}

function tell(node, text, tone) {
  node.dataset.tone = tone;
  say(node, text);
}

function setUpTabs() {
  const tabs = [$("tab-publish"), $("tab-command")];
  const choose = (tab) => {
    for (const one of tabs) {
      const isChosen = one === tab;
      one.setAttribute("aria-selected", isChosen);
      one.tabIndex = isChosen ? 0 : -1;
      $(one.getAttribute("aria-controls")).hidden = !isChosen;
    }
  };
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      choose(tabs[1 - index]);
      tabs[1 - index].focus();
    });
  });
}

