// The list of events with all around it: filter, search, following, one event in full.

import { $, announce, copy, el, say } from "./dom.js";
import { clock, count, duration, hue, many, pretty } from "./format.js";
import { List } from "./list.js";
import { Rows } from "./rows.js";

const CHIPS_MAX = 30;
const SEARCH_PAUSE_MS = 120;
const AROUND_MS = 250;

/** Takes rows at any rate and paints once per frame. */
export class Stream {
  #rows = new Rows();
  #list;
  #chosen = new Set();
  #chips = new Map();
  #isDue = false;
  #around = 0;
  #opened = null;

  constructor() {
    this.#list = new List($("rows"), this.#rows, {
      onfollow: (yes) => this.#following(yes),
      onopen: (row) => this.#open(row),
    });
    let pause;
    $("search").addEventListener("input", () => {
      clearTimeout(pause);
      pause = setTimeout(() => this.#filter(), SEARCH_PAUSE_MS);
    });
    $("follow").addEventListener("click", () => this.follow(!this.#list.following));
    $("newer").addEventListener("click", () => this.follow(true));
    $("clear").addEventListener("click", () => this.clear());
    $("detail-close").addEventListener("click", () => this.close());
    $("detail-copy").addEventListener("click", (event) => {
      copy(JSON.stringify(this.#opened.data, null, 2), event.currentTarget);
    });
  }

  /** The rows that there are, for the rest of the page. */
  get isEmpty() {
    return this.#rows.all.length === 0;
  }

  get names() {
    return this.#rows.names.keys();
  }

  add(row) {
    const before = this.#rows.shown.length;
    this.#rows.add(row);
    if (!this.#list.following && this.#rows.shown.length > before) this.#list.missed++;
    this.#schedule();
  }

  /** A line of the page's own: what the broker said about the stream or the connection. */
  note(tone, what, text, time = Date.now()) {
    this.add({ kind: "note", tone, what, text, time, bytes: 100 });
  }

  /** In the background no frame comes: what has come is there when the page is seen. */
  #schedule() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => this.#paint());
  }

  #paint() {
    this.#isDue = false;
    this.#list.paint();
    $("empty").hidden = this.#rows.shown.length > 0;
    this.#paintNewer();
    // A few times a second is enough for what is read rather than watched.
    this.#around ||= setTimeout(() => this.#paintAround(), AROUND_MS);
  }

  #paintAround() {
    this.#around = 0;
    this.#paintChips();
    const { all, shown, isFiltered } = this.#rows;
    const lines = isFiltered ? `${many(shown.length, "line")} of ${count(all.length)}` : many(all.length, "line");
    const more = all[0]?.n > 1 ? "; older ones were let go" : "";
    say($("shown"), all.length ? lines + more : "");
  }

  #paintNewer() {
    const { following, missed } = this.#list;
    $("newer").hidden = following || !missed;
    if (!following) say($("newer"), `${many(missed, "new line")} ↓`);
  }

  #paintChips() {
    for (const [name, number] of this.#rows.names) {
      let chip = this.#chips.get(name);
      if (chip === undefined) {
        if (this.#chips.size >= CHIPS_MAX) continue;
        chip = this.#newChip(name);
      }
      say(chip.lastChild, count(number));
    }
  }

  #newChip(name) {
    const onclick = () => this.#toggle(name);
    const label = el("span", { className: hue(name), textContent: name });
    const chip = el("button", { type: "button", "aria-pressed": "false", onclick }, label, " ", el("small"));
    this.#chips.set(name, chip);
    $("types").append(chip);
    $("known-events").append(el("option", { value: name }));
    return chip;
  }

  #toggle(name) {
    if (!this.#chosen.delete(name)) this.#chosen.add(name);
    this.#chips.get(name).setAttribute("aria-pressed", this.#chosen.has(name));
    this.#filter();
  }

  #filter() {
    this.#rows.filter(this.#chosen, $("search").value);
    this.#list.missed = 0;
    this.#schedule();
    announce(`${many(this.#rows.shown.length, "line")} shown`);
  }

  clear() {
    this.#rows.clear();
    this.#chosen.clear();
    for (const chip of this.#chips.values()) chip.remove();
    this.#chips.clear();
    $("known-events").replaceChildren();
    $("search").value = "";
    this.#rows.filter(this.#chosen, "");
    this.close();
    this.follow(true);
    this.#paintAround();
  }

  follow(yes) {
    this.#list.follow(yes);
  }

  get following() {
    return this.#list.following;
  }

  #following(yes) {
    $("follow").setAttribute("aria-pressed", yes);
    this.#paintNewer();
  }

  /** Mark the next row or the one before. */
  move(by) {
    this.#list.move(by);
    $("rows").focus({ preventScroll: true });
  }

  #open(row) {
    this.#opened = row?.kind === "event" ? row : null;
    $("detail").hidden = this.#opened === null;
    if (this.#opened === null) return;
    say($("detail-name"), row.name);
    $("detail-name").className = hue(row.name);
    const facts = { id: row.id, ordinal: row.seq, node: row.node, published: clock(row.time) };
    facts[row.live ? "latency" : "age"] = duration(Math.max(0, row.latency));
    const items = Object.entries(facts).filter(([, value]) => value !== undefined && value !== "");
    $("detail-facts").replaceChildren(
      ...items.map(([name, value]) => el("div", {}, el("dt", { textContent: name }), el("dd", { textContent: value }))),
    );
    $("detail-json").replaceChildren(pretty(row.data));
    $("detail-json").scrollTop = 0;
  }

  /** Close what shows one event; true if it was open. */
  close() {
    const wasOpen = !$("detail").hidden;
    this.#list.pick(null);
    return wasOpen;
  }

  /** Say what to do while nothing has come. */
  explain(title, ...more) {
    $("empty").replaceChildren(el("b", { textContent: title }), ...more);
    $("empty").hidden = this.#rows.shown.length > 0;
  }
}
