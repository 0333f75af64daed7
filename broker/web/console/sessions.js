// The sessions of one user: opens more of them than allowed, to show what then happens.

import { Client } from "../client.js";
import { $, announce, el, say } from "./dom.js";
import { describeEnd } from "./words.js";

const WOODS = ["alder", "birch", "cedar", "elm", "hazel", "juniper", "larch", "maple", "oak", "pine", "rowan", "willow"];
const NUMBERS = ["no", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"];
const ORDINAL = (number) => NUMBERS[number] ?? `${number}th`;

/** Ends of a session that somebody may undo. */
export const REOPENED = new Set(["session_evicted", "session_closed"]);

/** A name that nobody has used: an evicted session stays shut for a day. */
export function freshName() {
  const [wood, number] = crypto.getRandomValues(new Uint16Array(2));
  return `${WOODS[wood % WOODS.length]}-${(number % 9000) + 1000}`;
}

/** The list of them, with the page's own as one of them. */
export class Sessions {
  #slots = [];
  #page;

  /**
   * @param {{limit: number, options: function(string): object, reopen: function()}} page
   *   `options` are those of a client for a session; `reopen` takes the page's own back.
   */
  constructor(page) {
    this.#page = page;
    $("s-open").addEventListener("click", () => this.open());
    $("s-close").addEventListener("click", () => this.leave());
    this.#paint();
  }

  /** The page reads this session now, as this user; null: as nobody. */
  own(session, user) {
    const slot = this.#slots.find((one) => one.isOwn);
    if (slot?.session === session && this.user === user) return;
    this.leave();
    this.user = user;
    this.#slots = [{ session, isOwn: true, state: "opening" }];
    say($("s-result"), "");
    this.#paint();
  }

  /** What has become of the page's own session. */
  ownState(state, change, closing) {
    const slot = this.#slots.find((one) => one.isOwn);
    if (slot === undefined) return;
    if (slot.state === "gone" && state !== "gone" && REOPENED.has(slot.code)) {
      // Opened again it begins anew, so it is the newest now.
      this.#slots = [...this.#slots.filter((one) => one !== slot), slot];
    }
    this.#update(slot, state, change, closing);
  }

  /** Open one more. */
  open() {
    const session = freshName();
    const slot = { session, isOwn: false, state: "opening", closing: null };
    let client;
    try {
      client = new Client(this.#page.options(session));
    } catch (error) {
      say($("s-result"), error.message);
      return;
    }
    slot.client = client;
    client.on("closing", (closing) => (slot.closing = closing));
    client.on("state", (change) => {
      const states = { open: "open", reconnecting: "opening", connecting: "opening" };
      this.#update(slot, states[change.state] ?? "gone", change, slot.closing);
    });
    this.#slots.push(slot);
    client.connect();
    this.#paint();
  }

  /** End the connections to the others. */
  leave() {
    for (const { client } of this.#slots) client?.close();
    this.#slots = this.#slots.filter((slot) => slot.isOwn);
    this.#paint();
  }

  #update(slot, state, change, closing) {
    const wasGone = slot.state === "gone";
    slot.state = state;
    if (state === "gone") {
      slot.why = describeEnd(change);
      slot.code = change.reason;
      slot.replacedBy = closing?.replaced_by;
      if (!wasGone && slot.code === "session_evicted") this.#tellEvicted(slot);
    }
    this.#paint();
  }

  #tellEvicted({ session, replacedBy }) {
    const { limit } = this.#page;
    const text =
      `${session} was evicted. ${this.user || "The user"} may have ${limit} open sessions, ` +
      `and it was the oldest when ${replacedBy ?? "another one"} was opened.`;
    say($("s-result"), text);
    announce(text, { urgent: true });
  }

  #paint() {
    const { limit } = this.#page;
    const open = this.#slots.filter((slot) => slot.state === "open").length;
    say($("s-user"), this.user || "this user");
    say($("s-rule"), this.#rule(limit));
    $("s-open").textContent = limit && open >= limit ? `Open a ${ORDINAL(open + 1)} session` : "Open another session";
    $("s-open").disabled = !this.user;
    $("s-close").hidden = this.#slots.length < 2;
    $("s-list").replaceChildren(...this.#slots.map((slot) => this.#item(slot)));
  }

  #rule(limit) {
    if (!this.user) return "Who has no name has no sessions in this sense, and no limit.";
    if (!limit) return "There is no limit here: nothing is evicted.";
    return `At most ${limit} are open at a time. One more, and the oldest has to go.`;
  }

  #item({ session, isOwn, state, why, code }) {
    const words = { open: isOwn ? "open, this page" : "open", opening: "opening…" };
    const parts = [el("i", { "aria-hidden": "true" }), el("code", { textContent: session, title: session })];
    if (state !== "gone") parts.push(el("small", { textContent: words[state] }));
    else parts.push(el("small", { textContent: why }));
    const canReopen = isOwn && state === "gone" && REOPENED.has(code);
    if (canReopen) {
      parts.push(el("button", { type: "button", textContent: "Open it again", onclick: () => this.#page.reopen() }));
    }
    return el("li", { className: state }, ...parts);
  }
}

/** Paints who is there. */
export class People {
  #users = new Set();
  #count = 0;

  /** Take what `presence` told; null: nobody tells any more. */
  take(told, me) {
    if (told === null) {
      this.#users.clear();
      this.#count = 0;
    } else {
      if (told.type === "present") this.#users = new Set(told.users);
      for (const user of told.users) {
        if (told.type === "joined") this.#users.add(user);
        if (told.type === "left") this.#users.delete(user);
      }
      this.#count = told.count;
    }
    this.#paint(me);
  }

  #paint(me) {
    const names = [...this.#users].sort().slice(0, 100);
    const items = names.map((name) => el("li", { textContent: name, className: name === me ? "me" : "" }));
    if (!items.length) items.push(el("li", { textContent: "nobody with a name", className: "none" }));
    if (this.#count > names.length) items.push(el("li", { textContent: `and ${this.#count - names.length} more`, className: "none" }));
    $("w-list").replaceChildren(...items);
    say($("w-count"), this.#count ? String(this.#count) : "");
  }
}
