/** @import * as Api from "../client.js" */

/**
 * Something went wrong with the connection. `code` is for programs, `message` for a
 * person; neither ever holds a token.
 *
 * @implements {Api.ClientError}
 */
export class ClientError extends Error {
  /**
   * @param {string} code Such as `connection_lost`, or the reason the broker gave.
   * @param {string} message For a person.
   * @param {{closeCode?: number | null, terminal?: boolean, cause?: unknown}} [more]
   */
  constructor(code, message, { closeCode = null, terminal = false, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "ClientError";
    /** @readonly */
    this.code = code;
    /** @readonly */
    this.closeCode = closeCode;
    /** @readonly */
    this.terminal = terminal;
  }
}

/**
 * A command was not stored, or nobody knows whether it was.
 *
 * @implements {Api.CommandError}
 */
export class CommandError extends ClientError {
  /**
   * @param {string} code The broker's word, or one of `timeout`, `closed`,
   *   `disconnected`, `not_connected`, `no_upstream`, `no_position`, `too_large`.
   * @param {string} message For a person.
   * @param {boolean} retry Whether the same command may succeed later.
   */
  constructor(code, message, retry = false) {
    super(code, message);
    this.name = "CommandError";
    /** @readonly */
    this.retry = retry;
  }

  static noUpstream() {
    return new CommandError("no_upstream", "an event stream takes no commands");
  }
}
