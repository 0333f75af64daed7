import { comparePlaces, parsePosition } from "./position.js";

/** @import * as Api from "../client.js" */
/** @import { BrokerEvent, EventStoreOptions, ParsedPosition } from "../client.js" */

const MAX_EVENTS = 1000;

/**
 * Keeps the newest events of a session: in stream order, each once, at most so many.
 *
 * `subscribe` and `getSnapshot` are bound, so they can be handed to React's
 * `useSyncExternalStore` as they are.
 *
 * @implements {Api.EventStore}
 */
export class EventStore {
  #maxEvents;
  #notifyMs;
  #setTimeout;
  /** @type {BrokerEvent[]} */
  #events = [];
  /** @type {ParsedPosition[]} */
  #places = [];
  /** @type {readonly BrokerEvent[] | null} */
  #snapshot = null;
  /** @type {Set<() => void>} */
  #subscribers = new Set();
  #isDue = false;
  #dropped = 0;

  /** @param {EventStoreOptions} [options] */
  constructor({ maxEvents = MAX_EVENTS, notifyMs = 0, platform = {} } = {}) {
    if (!(Number.isInteger(maxEvents) && maxEvents > 0)) {
      throw new TypeError("maxEvents is a whole number of at least 1");
    }
    this.#maxEvents = maxEvents;
    this.#notifyMs = notifyMs;
    this.#setTimeout = platform.setTimeout ?? globalThis.setTimeout.bind(globalThis);
  }

  get size() {
    return this.#events.length;
  }

  /** The newest event. */
  get last() {
    return this.#events.at(-1);
  }

  /** How many were let go because there were too many. */
  get dropped() {
    return this.#dropped;
  }

  /**
   * Put an event in its place.
   *
   * @param {BrokerEvent} event
   * @returns {boolean} False if it is there already, or older than all of a full store.
   * @throws {TypeError} Its id is no position.
   */
  add(event) {
    const place = parsePosition(event.id);
    if (place === null) throw new TypeError("the id of an event is its position");
    const at = this.#find(place);
    if (at > 0 && comparePlaces(this.#places[at - 1], place) === 0) return false;
    const isFull = this.#events.length === this.#maxEvents;
    if (isFull && at === 0) return false;
    this.#events.splice(at, 0, event);
    this.#places.splice(at, 0, place);
    if (isFull) {
      this.#events.shift();
      this.#places.shift();
      this.#dropped += 1;
    }
    this.#changed();
    return true;
  }

  /** Forget everything. */
  clear() {
    this.#events = [];
    this.#places = [];
    this.#dropped = 0;
    this.#changed();
  }

  /**
   * Be told of changes.
   *
   * @param {() => void} onChange
   * @returns {() => void} Ends it.
   */
  subscribe = (onChange) => {
    const own = () => onChange();
    this.#subscribers.add(own);
    return () => {
      this.#subscribers.delete(own);
    };
  };

  /**
   * All events, oldest first. The same array until something changes.
   *
   * @returns {readonly BrokerEvent[]}
   */
  getSnapshot = () => {
    this.#snapshot ??= Object.freeze([...this.#events]);
    return this.#snapshot;
  };

  [Symbol.iterator]() {
    return this.getSnapshot()[Symbol.iterator]();
  }

  /**
   * Behind which of the events *place* belongs; nearly always the last one.
   *
   * @param {ParsedPosition} place
   */
  #find(place) {
    let low = 0;
    let high = this.#places.length;
    if (high > 0 && comparePlaces(this.#places[high - 1], place) <= 0) return high;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (comparePlaces(this.#places[middle], place) <= 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #changed() {
    this.#snapshot = null;
    if (this.#notifyMs <= 0) {
      this.#notify();
    } else if (!this.#isDue) {
      this.#isDue = true;
      this.#setTimeout(() => {
        this.#isDue = false;
        this.#notify();
      }, this.#notifyMs);
    }
  }

  #notify() {
    for (const onChange of [...this.#subscribers]) onChange();
  }
}
