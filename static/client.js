/**
 * Sluice's transport: ask, follow the answer through every cut, stop it. No dependency, no DOM, no build step.
 *
 *     import { Relay } from "https://relay.example/client.js";
 *
 *     const relay = new Relay();
 *     const run = await relay.start({ prompt: "Hi" });
 *     relay.follow(run, {
 *       token: ({ text }) => output.append(text),
 *       end: ({ reason, error }) => console.log(reason, error?.message),
 *       state: (state) => console.log(state),
 *     });
 *     await relay.stop(run); // the end follows as an event
 *
 * In Node, saved as client.mjs: `new Relay("https://relay.example", { EventSource })`, with the class that the
 * package `eventsource` brings; asking and stopping need none.
 *
 * A POST starts the run, native EventSource follows it. Following is a GET that never starts a second generation, so
 * it may be repeated at will; EventSource does that by itself after a cut, and Follower where EventSource gives up (on
 * any status but 200, such as a router's 503 while the relay restarts). Only the event `end` is an end: a connection
 * that closes without it was cut.
 */

/** How often a start is tried where no answer came or a router answered. Its idempotency key makes that safe. */
export const START_TRIES = 3;

/** How many failures in a row, without an event between them, end in the state "lost": about one minute. */
export const MAX_FAILURES = 8;

const BACKOFF_MIN_MS = 500;
const BACKOFF_MAX_MS = 30_000;
const NAMED_EVENTS = ["start", "upstream", "reasoning", "replace", "tool_call", "step", "file", "end"];

/**
 * The relay, or something on the way to it, refused. `code` is the relay's (see its API), "unreachable" where no
 * answer came, or "http" where the answer was not the relay's. `status` is 0 where no answer came.
 */
export class RelayError extends Error {
  constructor(code, message, status) {
    super(message);
    this.name = "RelayError";
    this.code = code;
    this.status = status;
  }
}

export class Relay {
  #base;
  #EventSource;

  /**
   * @param {string} [base] the relay's address. Default: where this module came from.
   * @param {{EventSource?: typeof EventSource}} [parts] for environments that have none.
   */
  constructor(base = import.meta.url, parts = {}) {
    this.#base = new URL("/", base);
    this.#EventSource = parts.EventSource ?? globalThis.EventSource;
  }

  /**
   * Start a run. It finishes even if nobody follows it, unless `ask.on_disconnect` says otherwise.
   * The same key and ask, sent again, give the same run and no second generation.
   * @param {{prompt?: string, conversation_id?: string}} ask any fields of POST /runs
   * @param {string} [key] the idempotency key
   * @returns {Promise<{run_id: string, conversation_id: ?string, events_url: string, stop_url: string}>}
   * @throws {RelayError}
   */
  async start(ask, key = newKey()) {
    const request = {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": key },
      body: JSON.stringify({ on_disconnect: "finish", ...ask }),
    };
    for (let failures = 0; ; ) {
      try {
        return await this.#fetch("/runs", request);
      } catch (error) {
        if (!mayPass(error) || ++failures === START_TRIES) throw error;
        await new Promise((resolve) => setTimeout(resolve, backoff(failures)));
      }
    }
  }

  /**
   * Follow a run. `on` maps event types to handlers, each called with the event's object and its `seq`; `state` is
   * called with "connecting", "live", "reconnecting", "lost" (gave up; `retry()` goes on) or "gone" (the relay does
   * not know the run any more, with its RelayError).
   * @param {{events_url: string, run_id: string}} run
   * @param {Object<string, Function>} on
   * @param {{after?: number, text?: string}} [from] a snapshot's `seq` and `text`, to go on from there
   */
  follow(run, on, from = {}) {
    const connect = (after) => {
      const url = this.#url(run.events_url);
      if (after > 0) url.searchParams.set("after", after); // a new EventSource cannot send Last-Event-ID
      return new this.#EventSource(url);
    };
    return new Follower(connect, () => this.snapshot(run.run_id), on, from);
  }

  /** Return what there is of a run so far: `{state, seq, text, reasoning, end, ...}`. */
  snapshot(runId) {
    return this.#fetch(`/runs/${encodeURIComponent(runId)}`);
  }

  /** Stop a run; whoever follows it gets its `end`, with what was written until then. Stopping twice is no error. */
  stop(run) {
    return this.#fetch(run.stop_url, { method: "POST" });
  }

  #url(path) {
    return new URL(path, this.#base);
  }

  async #fetch(path, request = {}) {
    const headers = { Accept: "application/json", ...request.headers };
    let response;
    try {
      response = await fetch(this.#url(path), { cache: "no-store", ...request, headers });
    } catch (error) {
      throw new RelayError("unreachable", error.message, 0);
    }
    const body = await response.json().catch(() => null);
    if (response.ok && body) return body;
    const { code = "http", message = `HTTP ${response.status}` } = body?.error ?? {};
    throw new RelayError(code, message, response.status);
  }
}

/** One run, followed to its end. `text` and `after` (the last `seq`) are what has come so far. */
class Follower {
  #connect;
  #snapshot;
  #on;
  #source = null;
  #timer = 0;
  #failures = 0; // in a row, without an event between them
  #closed = false;

  constructor(connect, snapshot, on, { after = 0, text = "" }) {
    this.#connect = connect;
    this.#snapshot = snapshot;
    this.#on = on;
    this.after = after;
    this.text = text;
    /** At the end: whether `text` is what the relay sent, by its digest; null where the relay tells none. */
    this.intact = null;
    this.retry();
  }

  /** Connect; after "lost", try again from where it was. */
  retry() {
    this.#failures = 0;
    this.#say("connecting");
    this.#open();
  }

  /** Stop following. The run goes on. */
  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#source?.close();
  }

  #open() {
    this.#source?.close();
    const source = (this.#source = this.#connect(this.after));
    source.onopen = () => this.#say("live");
    source.onerror = () => this.#stumble(source);
    source.onmessage = (event) => this.#take("token", event);
    for (const type of NAMED_EVENTS) source.addEventListener(type, (event) => this.#take(type, event));
  }

  #take(type, event) {
    const seq = Number(event.lastEventId);
    if (this.#closed || seq <= this.after) return;
    const data = JSON.parse(event.data);
    this.after = seq;
    this.#failures = 0;
    if (type === "token") this.text += data.text;
    if (type === "replace") this.text = data.text;
    if (type === "end") {
      this.close(); // else EventSource would come back for more
      this.intact = data.digest ? matches(this.text, data.digest) : null;
    }
    this.#on[type]?.(data, seq);
  }

  /** The connection failed, or was closed without an end. */
  async #stumble(source) {
    if (this.#closed) return;
    const answered = source.readyState === 2; // CLOSED: the answer was no event stream; EventSource gives up
    this.#failures += 1;
    this.#say("reconnecting");
    if (!answered && this.#failures === 1) return; // it reconnects by itself, with Last-Event-ID; again we do it
    source.close();
    const gone = answered && (await this.#gone());
    if (this.#closed) return;
    if (gone) return this.#say("gone", gone);
    if (this.#failures > MAX_FAILURES) return this.#say("lost");
    this.#timer = setTimeout(() => this.#open(), backoff(this.#failures));
  }

  /** Return the relay's error if it does not know the run: EventSource cannot read a status. */
  async #gone() {
    try {
      await this.#snapshot();
    } catch (error) {
      if (error.code !== "http" && (error.status === 404 || error.status === 410)) return error;
    }
    return null;
  }

  #say(state, error) {
    this.#on.state?.(state, error);
  }
}

/** Return a new idempotency key. crypto.randomUUID would need a secure context, so not http:// on a LAN. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** No answer, or a router's while the relay restarts: another try may pass. */
function mayPass({ code, status }) {
  return code === "unreachable" || (code === "http" && status >= 502 && status <= 504);
}

/** Double with each failure; half of it is random, or all the clients of a restarted relay would come at once. */
function backoff(failures) {
  return Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** (failures - 1)) * (0.5 + Math.random() / 2);
}

function matches(text, digest) {
  const bytes = new TextEncoder().encode(text);
  return bytes.length === digest.bytes && crc32(bytes) === parseInt(digest.crc32, 16);
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
  }
  return ~crc >>> 0;
}
