/**
 * Types of `client.js`, the browser client of the broker.
 *
 * What frames mean stands in the broker's PROTOCOL.md; here stands what this client makes
 * of them.
 */

/** `<ms>-<n>` or `<ms>-<n>@<seq>`: compare with {@link comparePositions} only. */
export type Position = string;

/**
 * - `idle`: nobody has called `connect()` yet.
 * - `connecting`: the first attempt is under way.
 * - `open`: the broker has said welcome.
 * - `reconnecting`: an attempt has failed or the connection was lost; the client waits or
 *   tries again by itself.
 * - `closing`: it takes leave.
 * - `closed`: it is over until `connect()` is called again.
 */
export type State =
  "idle" | "connecting" | "open" | "reconnecting" | "closing" | "closed";

export type TransportName = "websocket" | "sse";

/** A published event. */
export interface BrokerEvent<Data = unknown> {
  /** Its position. */
  readonly id: Position;
  /** Its ordinal in the stream, where that is known exactly. */
  readonly seq?: number;
  readonly session: string;
  readonly event: string;
  readonly data: Data;
  /** RFC 3339. */
  readonly timestamp: string;
  readonly node_id?: string;
}

/** Any frame of the broker, as it came. */
export interface Frame {
  readonly event: string;
  readonly id?: Position;
  readonly seq?: number;
  readonly session?: string;
  readonly data?: unknown;
  readonly timestamp?: string;
  readonly node_id?: string;
}

export interface StateChange {
  readonly state: State;
  /** The same as `state` if another attempt has failed. */
  readonly previous: State;
  /**
   * Why: the broker's word (such as `draining`, `session_evicted`), or one of `connect`,
   * `welcome`, `client`, `aborted`, `connection_lost`, `connect_timeout`,
   * `cannot_connect`, `silent`, `unanswered`, `offline`, `online`, `buffer_full`,
   * `token_provider`, `no_token`, `bad_frame`, `internal`, `http_<status>`.
   */
  readonly reason: string;
  /** Close code, or HTTP status of a refused event stream; null if there was none. */
  readonly code: number | null;
  /** Milliseconds until the next attempt; null if none is planned. */
  readonly retryInMs: number | null;
  /** That of the connection, while there is one. */
  readonly transport: TransportName | null;
}

/** Entries that cannot be delivered. */
export interface Gap {
  readonly session: string;
  readonly after: Position;
  readonly next: Position;
  /** How many; null where nobody can know. */
  readonly lost: number | null;
  readonly exact: boolean;
  readonly reason: "trimmed" | "transient" | "conflated" | "dropped" | "reset";
  /**
   * True if it stands in place of every gap that was told since the last event: a lost
   * connection's gaps are told again by the next one. Add `lost` up accordingly.
   */
  readonly replaces: boolean;
}

/** The stream is another one from here on; all that it retains follows. */
export interface Reset {
  readonly session: string;
  readonly from: Position;
  readonly tip: Position;
}

/** An entry that broke the publishing contract. */
export interface Skipped {
  readonly session: string;
  readonly id: Position;
  readonly seq?: number;
  readonly reason: string;
  readonly message: string;
}

export interface Subscribed {
  readonly session: string;
  readonly resume: "live" | "complete" | "gap" | "reset";
  readonly from: Position;
  readonly tip: Position;
}

export interface CaughtUp {
  readonly session: string;
  readonly position: Position;
  readonly replayed: number;
}

/** Needs the option `presence`. */
export interface Presence {
  readonly type: "present" | "joined" | "left";
  readonly session: string;
  /** At most 1000 names. */
  readonly users: readonly string[];
  /** Exact. */
  readonly count: number;
}

export interface TokenExpiring {
  readonly expires_in_s: number;
}

/** What the broker says before it closes the connection. */
export interface Closing {
  readonly code: number;
  readonly reason: string;
  readonly retry: boolean;
  readonly delay_ms?: number;
  /** The session that evicted this one. */
  readonly replaced_by?: string;
}

export interface EventMap {
  event: BrokerEvent;
  state: StateChange;
  gap: Gap;
  reset: Reset;
  skipped: Skipped;
  subscribed: Subscribed;
  caught_up: CaughtUp;
  presence: Presence;
  token_expiring: TokenExpiring;
  closing: Closing;
  frame: Frame;
  error: ClientError;
}

/**
 * Why somebody needs a token: to connect at all, because the present one is about to
 * expire, has expired, or was refused.
 */
export type TokenReason = "connect" | "expiring" | "expired" | "refused";

/**
 * Gives a new token. Nothing (null, undefined, empty) means that there is none any more:
 * the client closes. If it throws, it is asked again later.
 */
export type TokenProvider = (why: {
  readonly reason: TokenReason;
}) => Promise<string | null | undefined> | string | null | undefined;

export interface Backoff {
  /** Bound of the first wait. Default: 500. */
  minMs?: number;
  /** Bound of every wait. Default: 30 000. */
  maxMs?: number;
}

export interface ReadingOptions {
  /** Where to begin, as a time of RFC 3339; only without `lastEventId`. */
  since?: string;
  /** Under which name the broker keeps the position. */
  consumer?: string;
  /** Needs `consumer`. Default: `manual`. */
  ackMode?: "manual" | "auto";
  /** What happens when this client does not keep up. Default: `lag`. */
  overflow?: "lag" | "latest" | "drop" | "close";
  /** Be told who comes and who leaves. */
  presence?: boolean;
  /** Open the session again although it was evicted or closed. */
  takeover?: boolean;
  /** Who this is; counts only where the broker asks nobody for a token. */
  user?: string;
}

export interface UrlOptions extends ReadingOptions {
  /** http, https, ws or wss, with a path prefix if there is one. Default: the page's origin. */
  url?: string;
  session: string;
  /** Default: `websocket`. */
  transport?: TransportName;
  /** A position, `0` for all that is retained, `-N` for the last N. */
  lastEventId?: string;
  /** URL of the page. Default: that of this page, if there is one. */
  page?: string;
}

export interface ClientOptions extends ReadingOptions {
  /** http, https, ws or wss, with a path prefix if there is one. Default: the page's origin. */
  url?: string;
  session: string;
  /** A position, `0` for all that is retained, `-N` for the last N. Absent: live only. */
  lastEventId?: string | null;
  token?: string;
  tokenProvider?: TokenProvider;
  /** Closes the client. */
  signal?: AbortSignal;
  /** Gets every event; is emptied by a reset. */
  store?: Pick<EventStore, "add" | "clear">;
  logger?: Logger;
  /** The second one is used where the first one is blocked. Default: both, in this order. */
  transports?: readonly TransportName[];
  /** Failures of the first transport, before it ever worked, until the second. Default: 2. */
  fallbackAfter?: number;
  /** Use `WebSocketStream` where the browser has it, so that `pause()` works. */
  pausable?: boolean;
  backoff?: Backoff;
  /**
   * Within which the broker must have said welcome. Default: 10 000. The broker takes up
   * to 3 seconds to refuse a page for good; with less than that it is not heard.
   */
  connectTimeoutMs?: number;
  /** Default: 10 000. */
  commandTimeoutMs?: number;
  /** How many events a `for await` may be behind before nothing more is read. Default: 1000. */
  bufferSize?: number;
  /** What to use in place of the browser's own: for tests and other runtimes. */
  platform?: Partial<Platform>;
}

export interface SendOptions {
  /** Default: `commandTimeoutMs`. */
  timeoutMs?: number;
  /** For another session than the client's. */
  session?: string;
  /** 8 to 128 characters, never used before. Default: 128 random bits. */
  id?: string;
}

/** Reads one session, over as many connections as it takes. */
export class Client implements AsyncIterable<BrokerEvent> {
  /** @throws TypeError - An option cannot be used. */
  constructor(options: ClientOptions);

  readonly state: State;
  /**
   * Position of the last event that was handed on: every `event` listener has returned and
   * every `for await` has taken it. To be kept, and given as `lastEventId` the next time.
   * Null while nobody knows.
   */
  readonly position: Position | null;
  /** The broker's name for the connection, null while there is none. */
  readonly connectionId: string | null;
  /** Of the connection, null while there is none. */
  readonly transport: TransportName | null;
  /** Whether `pause()` would stop reading. */
  readonly canPause: boolean;
  readonly paused: boolean;

  /**
   * Listen. A listener that throws does no harm; it is reported by `error`, or on the
   * console if nobody listens to that.
   *
   * @returns Ends it.
   */
  on<Name extends keyof EventMap>(
    name: Name,
    listener: (value: EventMap[Name]) => unknown,
  ): () => void;

  /** Begin, or begin again where it was closed. Otherwise nothing happens. */
  connect(): void;

  /** End. Commands without an answer fail with `closed`. */
  close(): void;

  /**
   * Send a command to the services. What is not answered is said again, in the same words,
   * when there is a new connection; the broker stores it once.
   *
   * @returns The id of its entry: it is stored.
   * @throws CommandError - It is not stored, or (code `timeout`) nobody knows.
   * @throws TypeError - It is none that can be sent.
   */
  send(cmd: string, data?: object | null, options?: SendOptions): Promise<{ id: string }>;

  /**
   * Commit a position for the client's `consumer`: everything up to it is done.
   *
   * @param done - A position or an event. Default: `position`. Within an `event` listener
   *   that is the one before, so name the event there.
   * @throws CommandError - It may not have been stored; commit it, or a later one, again.
   */
  ack(
    done?: Position | { readonly id: Position } | null,
  ): Promise<{ position: Position }>;

  /**
   * Use another token of the same user, on the open connection and for the next ones.
   * With a `tokenProvider` this happens by itself.
   *
   * @throws CommandError - The broker does not take it.
   */
  refresh(token: string): Promise<void>;

  /**
   * Stop reading from the network: the broker sees a client that does not keep up.
   *
   * @returns False if this transport cannot; then nothing has changed.
   */
  pause(): boolean;

  /** Read on. */
  resume(): void;

  /**
   * Each event from now on. If the loop is slow nothing more is read; if reading cannot be
   * stopped, the connection ends and is resumed later. Ends with the client; throws if the
   * broker has refused it for good.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<BrokerEvent>;
}

/** Something went wrong with the connection. Neither text holds a token. */
export class ClientError extends Error {
  constructor(
    code: string,
    message: string,
    more?: {
      closeCode?: number | null;
      terminal?: boolean;
      cause?: unknown;
    },
  );
  /** As `reason` of a state, the `code` of an `error` frame, or `listener`. */
  readonly code: string;
  readonly closeCode: number | null;
  /** Whether the client is closed by it. */
  readonly terminal: boolean;
}

/** A command was not stored, or nobody knows whether it was. */
export class CommandError extends ClientError {
  constructor(code: string, message: string, retry?: boolean);
  /** Whether the same command may succeed later. */
  readonly retry: boolean;
}

export interface EventStoreOptions {
  /** How many are kept. Default: 1000. */
  maxEvents?: number;
  /** Subscribers are told at most once in so many milliseconds. Default: 0, at once. */
  notifyMs?: number;
  /** For tests. */
  platform?: Pick<Partial<Platform>, "setTimeout">;
}

/** Keeps the newest events: in stream order, each once, at most so many. */
export class EventStore implements Iterable<BrokerEvent> {
  constructor(options?: EventStoreOptions);
  readonly size: number;
  readonly last: BrokerEvent | undefined;
  /** How many were let go because there were too many. */
  readonly dropped: number;
  /**
   * Put an event in its place.
   *
   * @returns False if it is there already, or older than all of a full store.
   * @throws TypeError - Its id is no position.
   */
  add(event: BrokerEvent): boolean;
  clear(): void;
  /** Bound: can be handed to `useSyncExternalStore` as it is. */
  readonly subscribe: (onChange: () => void) => () => void;
  /** Bound. Oldest first; the same frozen array until something changes. */
  readonly getSnapshot: () => readonly BrokerEvent[];
  [Symbol.iterator](): Iterator<BrokerEvent>;
}

export interface Logger {
  error(message: string, fields?: unknown): void;
  warn(message: string, fields?: unknown): void;
  info(message: string, fields?: unknown): void;
  debug(message: string, fields?: unknown): void;
  /** Told every token, so that it can keep it out of what it writes. */
  protect?(secret: string): void;
}

export type LogLevel = "off" | "error" | "warn" | "info" | "debug";

export interface EventLoggerOptions {
  /** Default: `off`. */
  level?: LogLevel;
  /** Default: the console. */
  sink?: Pick<Console, "error" | "warn" | "info" | "debug">;
  /** Default: `broker`. */
  prefix?: string;
}

/** Tells a developer what the client does, without tokens. */
export class EventLogger implements Logger {
  constructor(options?: EventLoggerOptions);
  level: LogLevel;
  protect(secret: string): void;
  error(message: string, fields?: unknown): void;
  warn(message: string, fields?: unknown): void;
  info(message: string, fields?: unknown): void;
  debug(message: string, fields?: unknown): void;
}

/** What the client takes from its surroundings. Null: it is not there. */
export interface Platform {
  WebSocket: (new (url: string, protocols: string[]) => unknown) | null;
  WebSocketStream:
    (new (url: string, options: { protocols: string[] }) => unknown) | null;
  fetch: typeof globalThis.fetch | null;
  setTimeout: (callback: () => void, delayMs: number) => unknown;
  clearTimeout: (timer: any) => void;
  /** Milliseconds; goes on while the machine sleeps. */
  now: () => number;
  /** From 0 to below 1. */
  random: () => number;
  /** A new id for a command. */
  randomId: () => string;
  document: (EventTarget & { readonly visibilityState: string }) | null;
  window: EventTarget | null;
  navigator: { readonly onLine?: boolean } | null;
  location: { readonly href: string } | null;
  console: Pick<Console, "error">;
}

export interface ParsedPosition {
  readonly ms: bigint;
  readonly n: bigint;
  readonly seq: bigint | null;
}

/** @returns Null if it is no position; `0` and `-100` are none. */
export function parsePosition(text: unknown): ParsedPosition | null;

/**
 * Which of two positions of one history is later; the ordinal plays no part in it.
 *
 * @throws TypeError - One of them is no position.
 */
export function comparePositions(a: Position, b: Position): -1 | 0 | 1;

/**
 * The URL of one session's events, never with a token in it.
 *
 * @throws TypeError - The URL cannot be used, or names a user or a token.
 */
export function buildUrl(options: UrlOptions): string;

/** Whether it can be the name of a session. */
export function isSessionName(name: unknown): name is string;

/** Full jitter: from nothing to a bound that doubles with each attempt, in milliseconds. */
export function backoffMs(
  attempt: number,
  bounds: { minMs: number; maxMs: number },
  random?: () => number,
): number;

/**
 * What a close code, or the HTTP status of a refused event stream, asks for: come back and
 * resume, come back with another token, or do not come back.
 */
export function judgeCode(code: number): "retry" | "renew" | "stop";

/** Takes `text/event-stream` apart, in whatever pieces it comes. */
export class SseParser {
  /** What the last `retry:` said, in milliseconds. */
  readonly retryMs: number | null;
  /** @returns The messages that this piece completes. */
  feed(text: string): { id: string | null; data: string }[];
}
