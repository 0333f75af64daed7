/** Holds whoever comes by while it is shut. */
export class Gate {
  /** @type {Promise<void> | null} */
  #opening = null;
  #release = () => {};

  get isShut() {
    return this.#opening !== null;
  }

  shut() {
    this.#opening ??= new Promise((resolve) => {
      this.#release = resolve;
    });
  }

  open() {
    this.#opening = null;
    this.#release();
  }

  /** Resolves when it is open; also if it was shut again while somebody waited. */
  async pass() {
    while (this.#opening !== null) await this.#opening;
  }
}
