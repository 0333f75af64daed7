// Cuts a connection behind the back of its client, as a network would.

/** Of the range that is for applications: no answer of the broker's, so it is retried. */
const CODE = 3000;
const REASON = "cut by hand";

/** What a `Client` takes from its surroundings, with a hand on its last connection. */
export class Cutter {
  #cut = () => {};

  constructor() {
    const remember = (cut) => (this.#cut = cut);
    this.platform = {
      WebSocket: class extends WebSocket {
        constructor(...args) {
          super(...args);
          remember(() => this.close(CODE, REASON));
        }
      },
      WebSocketStream: globalThis.WebSocketStream ? streamClass(remember) : null,
      fetch: (url, options) => {
        const own = new AbortController();
        remember(() => own.abort());
        return fetch(url, { ...options, signal: AbortSignal.any([options.signal, own.signal]) });
      },
    };
  }

  /** End the connection; its client learns only that it is gone. */
  cut() {
    this.#cut();
  }
}

function streamClass(remember) {
  return class extends WebSocketStream {
    constructor(...args) {
      super(...args);
      remember(() => this.close({ closeCode: CODE, reason: REASON }));
    }
  };
}
