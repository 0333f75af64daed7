// A list of any length: only the rows in view exist, and they are painted once a frame.

import { clock, duration, hue, preview } from "./format.js";

const SPARE = 3;

/** Shows the `shown` rows of a `Rows` and follows the newest, if it may. */
export class List {
  #box;
  #sizer;
  #rows;
  #pool = [];
  #rowHeight = 28;
  #height = 0;
  #first = 0;

  /**
   * @param {HTMLElement} box  Scrolls; holds one element that is as high as all rows.
   * @param {Rows} rows
   * @param {{onfollow: function(boolean), onopen: function(?object)}} tell
   */
  constructor(box, rows, tell) {
    this.#box = box;
    this.#sizer = box.firstElementChild;
    this.#rows = rows;
    this.tell = tell;
    this.following = true;
    /** The row that is marked, by its `n`; 0: none. */
    this.picked = 0;
    /** Rows that came since it last followed. */
    this.missed = 0;
    box.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    box.addEventListener("click", (event) => this.#clicked(event));
    box.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#measure()).observe(box);
    this.#measure();
  }

  #measure() {
    this.#rowHeight = parseFloat(getComputedStyle(this.#box).getPropertyValue("--row")) || 28;
    this.#height = this.#box.clientHeight;
    for (const element of this.#pool) element.remove();
    this.#pool = [];
    this.paint();
  }

  /** Bring the page up to date; called once per frame at most. */
  paint() {
    const { shown } = this.#rows;
    const height = this.#rowHeight;
    const gone = this.#rows.gone;
    this.#rows.gone = 0;
    this.#sizer.style.height = `${shown.length * height}px`;
    if (this.following) {
      this.#box.scrollTop = shown.length * height;
    } else if (gone) {
      // What is being read stays where it is, although rows above it went away.
      this.#box.scrollTop -= gone * height;
    }
    const first = Math.max(0, Math.floor(this.#box.scrollTop / height) - SPARE);
    const size = Math.ceil(this.#height / height) + 2 * SPARE;
    this.#first = first;
    this.#grow(size);
    for (let index = first; index < first + size; index++) this.#place(index, shown[index]);
  }

  #grow(size) {
    while (this.#pool.length < size) {
      const element = document.createElement("div");
      element.setAttribute("role", "option");
      element.hidden = true;
      this.#sizer.append(element);
      this.#pool.push(element);
    }
  }

  /** A row keeps its element while it is in view, so that most need no work. */
  #place(index, row) {
    const element = this.#pool[index % this.#pool.length];
    if (row === undefined) {
      element.hidden = true;
      element.row = null;
      return;
    }
    if (element.row !== row) {
      element.row = row;
      element.hidden = false;
      element.id = `row-${row.n}`;
      if (row.kind === "event") fillEvent(element, row);
      else fillNote(element, row);
      element.isPicked = undefined;
    }
    const isPicked = row.n === this.picked;
    if (element.isPicked !== isPicked) {
      element.isPicked = isPicked;
      element.classList.toggle("picked", isPicked);
      element.setAttribute("aria-selected", isPicked);
    }
    const top = `translateY(${index * this.#rowHeight}px)`;
    if (element.style.transform !== top) element.style.transform = top;
  }

  follow(yes) {
    this.following = yes;
    if (yes) this.missed = 0;
    this.tell.onfollow(yes);
    if (yes) this.paint();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#box;
    // Nobody has scrolled where only the room has changed; that is measured on its own.
    if (clientHeight !== this.#height) return;
    const atEnd = scrollTop + clientHeight >= scrollHeight - this.#rowHeight / 2;
    if (atEnd !== this.following) this.follow(atEnd);
    else this.paint();
  }

  #clicked(event) {
    const element = event.target.closest("[role=option]");
    if (element?.row) this.pick(element.row);
  }

  /** Mark a row and show what is in it. */
  pick(row) {
    this.picked = row?.n ?? 0;
    if (row) this.#box.setAttribute("aria-activedescendant", `row-${row.n}`);
    else this.#box.removeAttribute("aria-activedescendant");
    this.tell.onopen(row ?? null);
    this.paint();
  }

  /** Go so many rows on from the marked one, or from the last one in view. */
  move(by) {
    const { shown } = this.#rows;
    if (!shown.length) return;
    const last = Math.min(shown.length - 1, this.#first + Math.ceil(this.#height / this.#rowHeight));
    const from = this.picked ? this.#rows.indexOf(this.picked) : last + (by < 0 ? 1 : -1);
    const index = Math.max(0, Math.min(shown.length - 1, from + by));
    this.#reveal(index);
    this.pick(shown[index]);
  }

  #reveal(index) {
    const top = index * this.#rowHeight;
    const bottom = top + this.#rowHeight;
    if (this.following && index < this.#rows.shown.length - 1) this.follow(false);
    if (top < this.#box.scrollTop) this.#box.scrollTop = top;
    else if (bottom > this.#box.scrollTop + this.#height) this.#box.scrollTop = bottom - this.#height;
  }

  #key(event) {
    const page = Math.max(1, Math.floor(this.#height / this.#rowHeight) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const by = steps[event.key];
    if (by === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.move(by);
  }
}

function fillEvent(element, row) {
  element.className = row.live ? "r" : "r old";
  const cells = cellsOf(element, "event", ["time", "seq", "name", "data", "lat"]);
  cells[0].textContent = clock(row.time);
  cells[1].textContent = row.seq ?? "";
  cells[2].textContent = row.name;
  cells[2].className = `name ${hue(row.name)}`;
  cells[3].textContent = "";
  if (row.node) {
    const node = document.createElement("em");
    node.textContent = row.node;
    cells[3].append(node);
  }
  row.preview ??= preview(row.data, row.bytes);
  cells[3].append(row.preview);
  cells[4].textContent = duration(Math.max(0, row.latency));
  cells[4].title = row.live ? "from the publisher to here" : "replayed: the age when it came";
}

function fillNote(element, row) {
  element.className = `r note ${row.tone}`;
  const [time, what] = cellsOf(element, "note", ["time", "what"]);
  time.textContent = clock(row.time);
  const head = document.createElement("b");
  head.textContent = row.what;
  what.replaceChildren(head, row.text);
  what.title = `${row.what} ${row.text}`;
}

function cellsOf(element, kind, classes) {
  if (element.kind !== kind) {
    element.kind = kind;
    element.replaceChildren(...classes.map((name) => Object.assign(document.createElement("span"), { className: name })));
  }
  return element.children;
}
