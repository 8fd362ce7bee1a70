// The types of watch.js: see docs/typescript.md.
import type { EventMap, RunSnapshot } from "./types.js";

export type * from "./types.js";

/** The types of the events of a run. */
export declare const EVENT_TYPES: readonly (keyof EventMap)[];

/**
 * An event of a stream. `switch (event.type)` says which data it has.
 *
 * `id` is the position after it. It is `null` for `reset` and `expired`, and a string that is not a number in a
 * stream of several runs.
 */
export type WatchEvent<Events extends object = EventMap> = {
  [Type in keyof Events & string]: { readonly type: Type; readonly data: Events[Type]; readonly id: string | null };
}[keyof Events & string];

/** The state of the connection. `renewing`: the permission has run out, and `renew` was called. */
export type ConnectionState = "connecting" | "live" | "waiting" | "renewing" | "ended";

export interface WatchOptions {
  /**
   * `fetch`, the default, can send a token and headers. `eventsource` is the browser's own `EventSource`, which shows
   * in its developer tools, and can send cookies only.
   */
  transport?: "fetch" | "eventsource" | undefined;
  /** Starts after this event, instead of where the URL says. */
  lastEventId?: string | number | undefined;
  /** A token, which is sent as `Authorization: Bearer`. With `fetch` only. */
  token?: string | undefined;
  /**
   * Is called when the permission has run out (`expired`), or was refused. It resolves to a new token, or to nothing
   * if a cookie was renewed. If it throws, or the new permission is refused, following ends with `notAllowed`.
   */
  renew?: ((why: "expired" | "refused") => string | void | Promise<string | void>) | undefined;
  /** Stops following, without an error. */
  signal?: AbortSignal | undefined;
  /** Whether cookies are also sent to other origins. Default: false. */
  withCredentials?: boolean | undefined;
  /** Headers of each request. With `fetch` only. */
  headers?: Record<string, string> | undefined;
  /** Types of further events, which are not those of a run. An `EventSource` must know them; `fetch` yields all. */
  types?: readonly string[] | undefined;
  /** Is called when the state of the connection changes. `reason` is for people. */
  onState?: ((state: ConnectionState, reason: string) => void) | undefined;
  /** A connection that is silent for this many milliseconds counts as broken. Default: 60,000. With `fetch` only. */
  silence?: number | undefined;
  /** Gives up if nothing came for this many milliseconds. Default: never. */
  giveUpAfter?: number | undefined;
  /** A function to use instead of the global `fetch`. */
  fetch?: typeof fetch | undefined;
  /** A class to use instead of the global `EventSource`. */
  EventSource?: (new (url: string, init?: { withCredentials?: boolean }) => EventSource) | undefined;
}

export interface ViewOptions extends WatchOptions {
  /**
   * What to begin with: the URL of a snapshot, a snapshot, or `false` to begin with the first event. Default: the URL of
   * the stream without `/sse`; where there is no snapshot, it begins with the first event.
   */
  snapshot?: string | URL | boolean | RunSnapshot | undefined;
}

export interface FollowOptions extends ViewOptions {
  /** Is called when the run has ended. */
  onEnd?: (() => void) | undefined;
  /** Is called when following ends before the run does. Default: the error is thrown as an uncaught one. */
  onError?: ((error: unknown) => void) | undefined;
}

/**
 * - `notAllowed`: `401` or `403`, and the permission was not renewed.
 * - `unknownRun`: `404` or `410`.
 * - `refused`: another status that reconnecting does not change.
 * - `notEvents`: the answer is not an event stream.
 * - `tooLarge`: an event has more than 4 Mi characters.
 * - `gaveUp`: nothing came for `giveUpAfter`.
 */
export type WatchErrorKind = "notAllowed" | "unknownRun" | "refused" | "notEvents" | "tooLarge" | "gaveUp";

/** The reason why following a run stopped before its end. */
export declare class WatchError extends Error {
  constructor(kind: WatchErrorKind, message: string, status?: number, options?: { cause?: unknown });
  readonly kind: WatchErrorKind;
  /** The status of the server's answer, if it was one that stopped it. */
  readonly status: number | undefined;
}

/**
 * Yields the events of a run, each once and in order, until the run ends. It reconnects after each broken connection,
 * right after the last event. Leaving the loop closes the connection.
 *
 * @throws {WatchError} when reconnecting does not help.
 */
export declare function watch<Events extends object = EventMap>(
  url: string | URL,
  options?: WatchOptions,
): AsyncGenerator<WatchEvent<Events>, void, undefined>;

/**
 * Yields the state of a run whenever it has changed, until the run ends: first its snapshot, then the state after each
 * piece of the stream.
 *
 * @throws {WatchError} when reconnecting does not help.
 */
export declare function watchView(url: string | URL, options?: ViewOptions): AsyncGenerator<RunSnapshot, void, undefined>;

/** Calls `onView` with the state of a run whenever it has changed, until the run ends. Returns a function that stops it. */
export declare function follow(url: string | URL, onView: (view: RunSnapshot) => void, options?: FollowOptions): () => void;

/** Returns the state to begin with: a snapshot, or the state of an unknown run. */
export declare function runView(snapshot?: RunSnapshot): RunSnapshot;

/**
 * Returns the state after an event. Parts that the event does not change are the same objects as before, and nothing
 * is changed in place: the function can be a reducer. An event that was applied before gives the same state.
 */
export declare function fold(view: RunSnapshot, event: { readonly type: string; readonly data: unknown; readonly id?: string | null }): RunSnapshot;

/** An event as it came over the wire. */
export interface RawEvent {
  readonly type: string;
  readonly data: string;
  /** Whether the event itself had an `id:` field. */
  readonly hasId: boolean;
  /** The id of this or an earlier event, which a client sends when it comes back. */
  readonly lastEventId: string;
}

/** Reads an event stream in pieces of any length, by the rules of WHATWG HTML, section 9.2.6. */
export declare class EventParser {
  constructor(lastEventId?: string);
  /** The id that a client sends when it comes back. */
  lastEventId: string;
  /** The latest `retry:` of the stream, in milliseconds. */
  retry: number | undefined;
  /** Returns the events that these bytes complete. */
  feed(bytes: Uint8Array): RawEvent[];
}
