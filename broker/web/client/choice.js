/** @import { TransportName } from "../client.js" */

/**
 * Which transport to try next. The first of the list, until it has failed a few times
 * before it ever worked: some networks let no WebSocket through. Then the second, and
 * after that one has failed or ended the first again, since the network may be another.
 */
export class TransportChoice {
  #names;
  #fallbackAfter;
  #failures = 0;
  #hasWorked = false;

  /**
   * @param {readonly TransportName[]} names At least one.
   * @param {number} fallbackAfter How many failures of the first one it takes.
   */
  constructor(names, fallbackAfter) {
    this.#names = names;
    this.#fallbackAfter = fallbackAfter;
  }

  /** @returns {TransportName} */
  get next() {
    const [first, second] = this.#names;
    const isBlocked = !this.#hasWorked && this.#failures >= this.#fallbackAfter;
    return isBlocked && second !== undefined ? second : first;
  }

  /**
   * An attempt is over.
   *
   * @param {TransportName} name
   * @param {boolean} isAnswered Whether the broker has answered it.
   */
  ended(name, isAnswered) {
    if (name === this.#names[0]) {
      this.#hasWorked ||= isAnswered;
      this.#failures += 1;
    } else {
      // Where the second one works, the first has but one more chance each time.
      this.#failures = isAnswered ? this.#fallbackAfter - 1 : 0;
    }
  }
}
