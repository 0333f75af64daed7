import { ClientError } from "./errors.js";

/** @import { ClientOptions, TokenProvider, TokenReason } from "../client.js" */

// What RFC 9110 calls a token: only that can be the name of a subprotocol.
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

/** The token, and whoever makes new ones. */
export class Tokens {
  /** @type {string | null} */
  #current = null;
  #provider;
  #logger;
  /** @type {Promise<string> | null} */
  #asking = null;
  /** @type {TokenReason} */
  #reason = "connect";

  /**
   * @param {Pick<ClientOptions, "token" | "tokenProvider" | "logger">} options
   * @throws {TypeError} The token cannot be sent.
   */
  constructor({ token, tokenProvider, logger }) {
    this.#provider = tokenProvider;
    this.#logger = logger;
    if (token !== undefined) this.set(token);
  }

  get current() {
    return this.#current;
  }

  get canRenew() {
    return this.#provider !== undefined;
  }

  /**
   * @param {string} token
   * @throws {TypeError} It cannot be sent.
   */
  set(token) {
    if (typeof token !== "string" || !TOKEN.test(token)) {
      throw new TypeError(
        "a token is text of letters, digits and - . _ ~ + and the like",
      );
    }
    this.#logger?.protect?.(token);
    this.#current = token;
  }

  /**
   * The current one is of no use any more.
   *
   * @param {TokenReason} reason
   */
  forget(reason) {
    this.#current = null;
    this.#reason = reason;
  }

  /**
   * The token to connect with; null where nobody has one.
   *
   * @returns {string | null | Promise<string>}
   */
  get() {
    if (this.#current !== null || !this.canRenew) return this.#current;
    return this.renew(this.#reason);
  }

  /**
   * Ask for a new one; two questions at once are one.
   *
   * @param {TokenReason} reason
   * @returns {Promise<string>}
   * @throws {ClientError} `no_token`, terminal: the provider says that there is none any
   *   more. `token_provider`: it failed, and may not do so the next time.
   */
  renew(reason) {
    this.#asking ??= this.#ask(reason).finally(() => {
      this.#asking = null;
    });
    return this.#asking;
  }

  /** @param {TokenReason} reason */
  async #ask(reason) {
    const provider = /** @type {TokenProvider} */ (this.#provider);
    let token;
    try {
      token = await provider({ reason });
    } catch (cause) {
      throw new ClientError("token_provider", "the token provider failed", { cause });
    }
    if (!token) {
      const message = "the token provider has no token";
      throw new ClientError("no_token", message, { terminal: true });
    }
    try {
      this.set(token);
    } catch (cause) {
      const message = "the token provider gave what cannot be a token";
      throw new ClientError("no_token", message, { terminal: true, cause });
    }
    return token;
  }
}
