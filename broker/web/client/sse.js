/** @import * as Api from "../client.js" */

/**
 * A parser of `text/event-stream` (WHATWG HTML, 9.2), for text that comes in any pieces.
 *
 * @implements {Api.SseParser}
 */
export class SseParser {
  #rest = "";
  #skipLineFeed = false;
  /** @type {string[]} */
  #data = [];
  /** @type {string | null} */
  #id = null;

  /** What the last `retry:` said, in milliseconds. @type {number | null} */
  retryMs = null;

  /**
   * Take the next piece.
   *
   * @param {string} text
   * @returns {{id: string | null, data: string}[]} What it completes. `id` is the last
   *   one so far, also of an earlier message.
   */
  feed(text) {
    if (text === "") return [];
    // A line may end with CR LF, and the LF may come with the next piece.
    const piece = this.#skipLineFeed && text[0] === "\n" ? text.slice(1) : text;
    this.#skipLineFeed = text.endsWith("\r");
    const lines = (this.#rest + piece).split(/\r\n|\r|\n/);
    this.#rest = /** @type {string} */ (lines.pop());
    const messages = [];
    for (const line of lines) {
      if (line !== "") this.#take(line);
      else if (this.#data.length > 0) {
        messages.push({ id: this.#id, data: this.#data.join("\n") });
        this.#data = [];
      }
    }
    return messages;
  }

  /** @param {string} line */
  #take(line) {
    const colon = line.indexOf(":");
    // A comment begins with the colon: its field has no name, and no meaning.
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
  }
}
