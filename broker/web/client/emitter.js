/**
 * Calls listeners by name. One that throws, or whose promise is rejected, stops neither
 * the others nor the caller.
 */
export class Emitter {
  /** @type {Map<string, readonly ((value: any) => unknown)[]>} */
  #listeners;
  #onThrow;

  /**
   * @param {readonly string[]} names All that can be listened to.
   * @param {(error: unknown, name: string) => void} onThrow
   */
  constructor(names, onThrow) {
    this.#listeners = new Map(names.map((name) => [name, []]));
    this.#onThrow = onThrow;
  }

  /**
   * @param {string} name
   * @param {(value: any) => unknown} listener
   * @returns {() => void} Ends it.
   * @throws {TypeError} There is no such name.
   */
  on(name, listener) {
    const before = this.#listeners.get(name);
    if (before === undefined) throw new TypeError(`there is no event ${name}`);
    if (typeof listener !== "function") throw new TypeError("a listener is a function");
    // Never changed in place: an emit that is under way keeps its own list.
    const own = (/** @type {any} */ value) => listener(value);
    this.#listeners.set(name, [...before, own]);
    return () => {
      const now = this.#listeners.get(name) ?? [];
      this.#listeners.set(
        name,
        now.filter((other) => other !== own),
      );
    };
  }

  /** @param {string} name */
  has(name) {
    return (this.#listeners.get(name) ?? []).length > 0;
  }

  /**
   * @param {string} name
   * @param {unknown} value
   */
  emit(name, value) {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        const result = /** @type {any} */ (listener(value));
        if (typeof result?.then === "function") {
          result.then(undefined, (/** @type {unknown} */ error) =>
            this.#onThrow(error, name),
          );
        }
      } catch (error) {
        this.#onThrow(error, name);
      }
    }
  }
}
