// Values as people read them. Pure: nothing here knows the page.

const HUES = 8;
const NAMES_MAX = 500;
const NODES_LOOKED_AT = 256;
const pad = (number, width) => String(number).padStart(width, "0");

/** Local time with milliseconds, of Unix milliseconds. */
export function clock(ms) {
  const at = new Date(ms);
  const [h, m, s] = [at.getHours(), at.getMinutes(), at.getSeconds()];
  return `${pad(h, 2)}:${pad(m, 2)}:${pad(s, 2)}.${pad(at.getMilliseconds(), 3)}`;
}

/** The same to the second. */
export const shortClock = (ms) => clock(ms).slice(0, 8);

/** A whole number with separators. */
export const count = (number) => number.toLocaleString("en");

/** A duration of milliseconds with its unit. */
export function duration(ms) {
  if (ms < 1) return "<1 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min`;
  if (ms < 86_400_000) return `${Math.floor(ms / 3_600_000)} h`;
  return `${Math.floor(ms / 86_400_000)} d`;
}

/** A number of things: "1 event", "2 events". */
export const many = (number, thing) => `${count(number)} ${thing}${number === 1 ? "" : "s"}`;

const hues = new Map();

/**
 * The class that gives a name its colour: the same one on every visit, unless another
 * name that came first has it.
 */
export function hue(name) {
  let found = hues.get(name);
  if (found === undefined) {
    let hash = 7;
    for (let i = 0; i < name.length; i++) hash = (hash * 31 + name.charCodeAt(i)) | 0;
    let number = (hash >>> 0) % HUES;
    const taken = new Set(hues.values());
    while (taken.size < HUES && taken.has(`h${number}`)) number = (number + 1) % HUES;
    found = `h${number}`;
    if (hues.size < NAMES_MAX) hues.set(name, found);
  }
  return found;
}

const LARGE_BYTES = 4096;
const PARTS_MAX = 100;

/** Data in one line, cut to so many characters. Of `bytes` it takes, if that is known. */
export function preview(data, bytes = Infinity, length = 240) {
  if (data === undefined) return "";
  const text = JSON.stringify(data, bytes > LARGE_BYTES ? cut : undefined);
  return text.length > length ? `${text.slice(0, length)}…` : text;
}

/** A replacer: the beginning is enough of what is large. */
function cut(_key, value) {
  if (typeof value === "string") return value.slice(0, 1000);
  if (Array.isArray(value)) return value.slice(0, PARTS_MAX);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).slice(0, PARTS_MAX));
}

/**
 * About how much memory a JSON value takes, in bytes. Looks at a bounded part of it, so
 * that a large one costs no more than a small one.
 */
export function sizeOf(value) {
  let left = NODES_LOOKED_AT;
  let bytes = 0;
  const waiting = [value];
  while (waiting.length && left-- > 0) {
    const one = waiting.pop();
    if (typeof one === "string") bytes += 16 + 2 * one.length;
    else if (one === null || typeof one !== "object") bytes += 8;
    else {
      const parts = Object.values(one);
      bytes += 32 + 24 * parts.length;
      for (const part of parts.slice(0, left)) waiting.push(part);
    }
  }
  return bytes;
}

const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(true|false|null)/g;
const COLOURED_CHARS = 64 * 1024;
const SHOWN_CHARS = 512 * 1024;

/**
 * JSON over several lines, its parts in the classes k(ey), s(tring), n(umber), w(ord).
 * @returns {DocumentFragment} Large texts come without colours, very large ones are cut.
 */
export function pretty(value) {
  const text = JSON.stringify(value, null, 2) ?? "null";
  const whole = document.createDocumentFragment();
  if (text.length > COLOURED_CHARS) {
    const isCut = text.length > SHOWN_CHARS;
    whole.append(text.slice(0, SHOWN_CHARS));
    if (isCut) whole.append(`\n… ${count(text.length - SHOWN_CHARS)} more characters; Copy has all`);
    return whole;
  }
  let from = 0;
  for (const match of text.matchAll(TOKEN)) {
    const [all, string, colon, number] = match;
    whole.append(text.slice(from, match.index));
    const span = document.createElement("span");
    span.className = string ? (colon ? "k" : "s") : number ? "n" : "w";
    span.textContent = string ?? all;
    whole.append(span, colon ?? "");
    from = match.index + all.length;
  }
  whole.append(text.slice(from));
  return whole;
}
