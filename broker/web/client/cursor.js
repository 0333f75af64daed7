import { ClientError } from "./errors.js";
import { comparePlaces, parsePosition } from "./position.js";

/** @import { Frame, ParsedPosition } from "../client.js" */

/**
 * Where a client stands in its session: what to resume from, and what is new to it.
 * PROTOCOL.md, "Resume", is what `note` follows.
 */
export class Cursor {
  #start;
  /** @type {string | null} */
  #text = null;
  /** @type {ParsedPosition | null} */
  #place = null;
  // A gap that was told after the last event is told again by the next connection.
  #gapTold = false;
  #gapComesAgain = false;

  /** @param {string | null} start What was asked for: a position, `0`, `-N`, or null. */
  constructor(start) {
    this.#start = start;
    const place = parsePosition(start);
    if (place !== null) this.#set(/** @type {string} */ (start), place);
  }

  /** The position of what was handed on last; null while there is none. */
  get position() {
    return this.#text;
  }

  /** What goes into `last_event_id`; null: live only, or what `since` says. */
  get resumeFrom() {
    return this.#text ?? this.#start;
  }

  /**
   * Whether an entry was not handed on yet.
   *
   * @param {string} id
   * @throws {ClientError} The id is no position.
   */
  isNew(id) {
    const place = placeOf(id);
    return this.#place === null || comparePlaces(place, this.#place) > 0;
  }

  /**
   * Go on to *position*, but never back.
   *
   * @param {unknown} position
   */
  advance(position) {
    const place = placeOf(position);
    const order = this.#place === null ? 1 : comparePlaces(place, this.#place);
    // The same place with its ordinal says more: a loss can be counted from there.
    if (order > 0 || (order === 0 && place.seq !== null)) {
      this.#set(/** @type {string} */ (position), place);
    }
    this.#gapTold = this.#gapComesAgain = false;
  }

  /**
   * Take from a frame without `id` what it says about the position.
   *
   * @param {Frame} frame
   */
  note(frame) {
    const data = /** @type {Record<string, unknown>} */ (frame.data ?? {});
    if (frame.event === "reset") this.#restart(data.from);
    else if (frame.event === "caught_up") this.advance(data.position);
    else if (frame.event === "subscribed") this.#noteSubscribed(data);
  }

  /**
   * A gap was told; says whether it stands for those that the connection before had
   * told since the last event.
   *
   * @returns {boolean}
   */
  noteGap() {
    const replaces = this.#gapComesAgain;
    this.#gapTold = true;
    this.#gapComesAgain = false;
    return replaces;
  }

  /** The connection has ended. */
  disconnected() {
    this.#gapComesAgain = this.#gapTold;
  }

  /** @param {Record<string, unknown>} data */
  #noteSubscribed(data) {
    if (data.resume === "reset") this.#restart(data.from);
    else if (data.resume === "live") this.advance(data.tip);
    // The last N are another N by the time of the next connection. With `since` it stays
    // null: there `from` is a moment, and no entry has its id.
    else if (this.#place === null && this.#start?.startsWith("-")) {
      this.advance(data.from);
    }
  }

  /** @param {unknown} from */
  #restart(from) {
    this.#set(/** @type {string} */ (from), placeOf(from));
    this.#gapTold = this.#gapComesAgain = false;
  }

  /**
   * @param {string} text
   * @param {ParsedPosition} place
   */
  #set(text, place) {
    this.#text = text;
    this.#place = place;
  }
}

/**
 * @param {unknown} position
 * @returns {ParsedPosition}
 */
function placeOf(position) {
  const place = parsePosition(position);
  if (place === null) {
    throw new ClientError("bad_frame", "the server sent a position that is none");
  }
  return place;
}
