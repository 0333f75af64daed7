// What the list shows: the newest events, bounded in number and in memory.

export const ROWS_MAX = 5000;
const BYTES_MAX = 48 * 1024 * 1024;
const TRIMMED_AT_ONCE = 500;
const NAMES_MAX = 200;

/**
 * The rows of one session. Taking one is cheap and paints nothing; the view looks at
 * `shown` when the browser next draws.
 *
 * A row is `{kind: "event", id, seq, name, node, data, time, latency, live, bytes}` or
 * `{kind: "note", tone, what, text, time, bytes}`; notes pass every filter, so that a
 * loss is never hidden. `n` is added here: it rises by one with each row.
 */
export class Rows {
  #last = 0;
  #bytes = 0;
  #names = null;
  #text = "";

  constructor() {
    this.all = [];
    this.shown = [];
    /** How many rows of `shown` went away in front; the view takes it back to 0. */
    this.gone = 0;
    /** Events by name, of all that ever came. */
    this.names = new Map();
  }

  add(row) {
    row.n = ++this.#last;
    this.all.push(row);
    this.#bytes += row.bytes;
    if (row.kind === "event") this.#count(row.name);
    if (this.#passes(row)) this.shown.push(row);
    if (this.all.length >= ROWS_MAX + TRIMMED_AT_ONCE || this.#bytes > BYTES_MAX) this.#trim();
  }

  clear() {
    this.all = [];
    this.shown = [];
    this.names.clear();
    this.#bytes = 0;
    this.gone = 0;
  }

  /**
   * Show some rows only.
   * @param {?Set<string>} names  Of the events; null: all.
   * @param {string} text  What must be somewhere in them; case does not matter.
   */
  filter(names, text) {
    this.#names = names?.size ? names : null;
    this.#text = text.trim().toLowerCase();
    this.shown = this.all.filter((row) => this.#passes(row));
    this.gone = 0;
  }

  get isFiltered() {
    return this.#names !== null || this.#text !== "";
  }

  /** Where row `n` is in `shown`, or would be; rows are in order. */
  indexOf(n) {
    let low = 0;
    let high = this.shown.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.shown[middle].n < n) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #count(name) {
    const known = this.names.get(name);
    if (known !== undefined || this.names.size < NAMES_MAX) this.names.set(name, (known ?? 0) + 1);
  }

  #passes(row) {
    if (row.kind !== "event") return true;
    if (this.#names !== null && !this.#names.has(row.name)) return false;
    if (this.#text === "") return true;
    const where = `${row.name}\n${row.node ?? ""}\n${row.id}\n${JSON.stringify(row.data)}`;
    return where.toLowerCase().includes(this.#text);
  }

  /** Forget the oldest, many at once: moving an array for each one would cost more. */
  #trim() {
    let cut = Math.max(0, this.all.length - ROWS_MAX);
    for (let i = 0; i < cut; i++) this.#bytes -= this.all[i].bytes;
    // The newest row stays, however large it is.
    while (this.#bytes > BYTES_MAX * 0.75 && cut < this.all.length - 1) {
      this.#bytes -= this.all[cut++].bytes;
    }
    this.all.splice(0, cut);
    const before = this.indexOf(this.all[0].n);
    this.shown.splice(0, before);
    this.gone += before;
  }
}
