/** @import { BrokerEvent } from "../client.js" */

/**
 * The events that one `for await` has not taken yet, at most so many: when it is full, it
 * says so, and whoever fills it has to stop.
 *
 * @implements {AsyncIterableIterator<BrokerEvent>}
 */
export class EventQueue {
  #limit;
  #hooks;
  /** @type {{event: BrokerEvent, before: string | null, nth: number}[]} */
  #items = [];
  /** @type {{resolve: (result: IteratorResult<BrokerEvent, undefined>) => void,
   *          reject: (error: Error) => void}[]} */
  #takers = [];
  #isFull = false;
  #isOver = false;
  /** @type {Error | null} */
  #error = null;

  /**
   * @param {number} limit
   * @param {{full: () => void, drained: () => void, left: (queue: EventQueue) => void}}
   *   hooks `drained` comes when half of it is free again.
   */
  constructor(limit, hooks) {
    this.#limit = limit;
    this.#hooks = hooks;
  }

  get isFull() {
    return this.#isFull;
  }

  /** The oldest event that nobody has taken: its number, and the position before it. */
  get oldest() {
    return this.#items[0];
  }

  /**
   * @param {BrokerEvent} event
   * @param {string | null} before The position before it.
   * @param {number} nth Rises with each event of the client.
   */
  push(event, before, nth) {
    const taker = this.#takers.shift();
    if (taker !== undefined) {
      taker.resolve({ value: event, done: false });
      return;
    }
    this.#items.push({ event, before, nth });
    if (this.#items.length >= this.#limit && !this.#isFull) {
      this.#isFull = true;
      this.#hooks.full();
    }
  }

  /**
   * Nothing more comes. What is there can still be taken; then *error* is thrown.
   *
   * @param {Error | null} error
   */
  end(error) {
    this.#isOver = true;
    const takers = this.#takers.splice(0);
    // It is thrown once: to whoever waits, or to whoever comes next.
    this.#error = takers.length === 0 ? error : null;
    for (const { resolve, reject } of takers) {
      if (error !== null) reject(error);
      else resolve({ value: undefined, done: true });
    }
  }

  /** @returns {Promise<IteratorResult<BrokerEvent, undefined>>} */
  async next() {
    const item = this.#items.shift();
    if (item !== undefined) {
      if (this.#isFull && this.#items.length <= this.#limit / 2) {
        this.#isFull = false;
        this.#hooks.drained();
      }
      return { value: item.event, done: false };
    }
    if (!this.#isOver) {
      return new Promise((resolve, reject) => this.#takers.push({ resolve, reject }));
    }
    const error = this.#error;
    this.#error = null;
    if (error !== null) throw error;
    return { value: undefined, done: true };
  }

  /**
   * Whoever iterates leaves the loop.
   *
   * @returns {Promise<IteratorResult<BrokerEvent, undefined>>}
   */
  async return() {
    this.#items = [];
    this.end(null);
    this.#hooks.left(this);
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/** Everybody who takes events by `for await`. */
export class Queues {
  #limit;
  #onChange;
  /** @type {Set<EventQueue>} */
  #queues = new Set();
  /** Of the events that were put in. */
  #nth = 0;

  /**
   * @param {number} limit Of each.
   * @param {() => void} onChange One is full, or has room again.
   */
  constructor(limit, onChange) {
    this.#limit = limit;
    this.#onChange = onChange;
  }

  get isFull() {
    return [...this.#queues].some((queue) => queue.isFull);
  }

  add() {
    const queue = new EventQueue(this.#limit, {
      full: this.#onChange,
      drained: this.#onChange,
      left: () => {
        this.#queues.delete(queue);
        this.#onChange();
      },
    });
    this.#queues.add(queue);
    return queue;
  }

  /**
   * @param {BrokerEvent} event
   * @param {string | null} before The position before it.
   */
  push(event, before) {
    this.#nth += 1;
    for (const queue of this.#queues) queue.push(event, before, this.#nth);
  }

  /**
   * Up to where everybody has taken what is there.
   *
   * @param {string | null} received The position of what was put in last.
   */
  taken(received) {
    const oldest = [...this.#queues].flatMap((queue) => queue.oldest ?? []);
    if (oldest.length === 0) return received;
    return oldest.reduce((a, b) => (a.nth < b.nth ? a : b)).before;
  }

  /** @param {Error | null} error */
  end(error) {
    for (const queue of this.#queues) queue.end(error);
    this.#queues.clear();
  }
}
