/**
 * Sluice's transport: ask, follow the answer through every cut, stop it. No dependency, no DOM, no build step; it runs
 * in browsers and in Node 20 or newer. docs/client.md tells how to use it and what it promises.
 *
 * A POST starts the run, a GET follows it. Following never starts a second generation, so it may be repeated at will:
 * EventSource does that by itself after a cut, and Follower where EventSource gives up (on any status but 200, such as
 * a router's 503 while the relay restarts). Only the event `end` is an end: a connection that closes without it was cut.
 */

/** How often a start is tried where no answer came or a router answered: 7 s. Its idempotency key makes that safe. */
export const START_TRIES = 5;

/** How many failures in a row, without an event between them, end in the state "lost": about one minute. */
export const MAX_FAILURES = 8;

/** A connection may be dead without a sign, and heartbeats are not shown to us: after this silence it is made anew. */
export const SILENCE_MS = 40_000;

const BACKOFF_MIN_MS = 500;
const BACKOFF_MAX_MS = 30_000;
const STEADY_MS = 10_000; // what stayed open so long was no failure, even if the model said nothing meanwhile
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
  #headers;
  #listen;
  #visitor;
  #keepVisitor;

  /**
   * @param {string} [base] the relay's address. Default: where this module came from.
   * @param {{headers?: Object<string, string>, visitor?: string, keepVisitor?: function(string)}} [options] `headers` go with every request, for a relay that wants
   *   `Authorization`. EventSource cannot send any: with them, and where there is none (Node), fetch reads the stream.
   *   `visitor` is the token of a public page's visitor; `keepVisitor(token)` is told a new one when it was too old.
   */
  constructor(base = import.meta.url, { headers, visitor, keepVisitor } = {}) {
    this.#base = new URL("/", base);
    this.#headers = headers ?? {};
    this.#visitor = visitor;
    this.#keepVisitor = keepVisitor;
    this.#listen = headers || !globalThis.EventSource ? listenByFetch : listen;
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
   * Follow a run from its beginning; return its Follower. `on` maps event types to handlers, each called with the
   * event's object and its `seq`, and two more names:
   *
   *   state(name, {failures, error})  "connecting", "live", "reconnecting", "offline", "ended"; and where it stopped
   *                                   trying "lost" (`retry()` goes on) or "gone" (the relay does not have the run)
   *   snapshot(answer)                show this in the place of all that came before
   */
  follow(run, on) {
    return this.resume({ run, seq: 0, answer: { text: "", reasoning: "", tool_calls: [], steps: [], files: [] } }, on);
  }

  /**
   * Follow a run from where its Follower's `saved` was read, in a page's life before this one perhaps.
   * Of `saved` the run alone is needed: without the rest a snapshot comes first.
   */
  resume(saved, on) {
    const connect = (after, ears) => {
      const url = this.#url(saved.run.events_url);
      if (after > 0) url.searchParams.set("after", after); // a new EventSource cannot send Last-Event-ID
      return this.#listen(url, ears, this.#headers);
    };
    return new Follower(saved, on, connect, (query) => this.snapshot(saved.run.run_id, query));
  }

  /** Return what there is of a run so far: `{state, seq, text, reasoning, end, ...}`. */
  snapshot(runId, query = "") {
    return this.#fetch(`/runs/${encodeURIComponent(runId)}${query}`);
  }

  /** Stop a run; whoever follows it gets its `end`, with what was written until then. Stopping twice is no error. */
  stop(run) {
    return this.#fetch(run.stop_url, { method: "POST" });
  }

  #url(path) {
    return new URL(path, this.#base);
  }

  /** The same visitor with a new token may do what the old one might. */
  async #fetch(path, request) {
    try {
      return await this.#send(path, request);
    } catch (error) {
      if (!this.#visitor || error.status !== 401) throw error;
      this.#visitor = (await this.#send("/visitor", { method: "POST" })).token;
      this.#keepVisitor?.(this.#visitor);
      return this.#send(path, request);
    }
  }

  async #send(path, request = {}) {
    const headers = { Accept: "application/json", ...this.#headers, ...request.headers };
    if (this.#visitor) headers["X-Visitor-Token"] = this.#visitor;
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

/** One run, followed to its end. */
class Follower {
  #on;
  #connect;
  #snapshot;
  #state = "";
  #disconnect = null;
  #failures = 0; // in a row, without an event between them
  #opened = Infinity; // when (ms); Infinity while it is not
  #heard = 0;
  #again = 0; // timers
  #watch = 0;

  constructor({ run, seq = null, answer = null }, on, connect, snapshot) {
    this.#on = on;
    this.#connect = connect;
    this.#snapshot = snapshot;
    this.run = run;
    /** The last event's number; null where what came before it has to be read first. */
    this.seq = answer && seq;
    /** What came so far, in the snapshot's shape: `{text, reasoning, tool_calls, steps, files}`; null as above. */
    this.answer = answer;
    /** At the end: whether `answer.text` is what the relay sent, by its digest; null where the relay tells none. */
    this.intact = null;
    globalThis.addEventListener?.("online", this.#online);
    globalThis.addEventListener?.("offline", this.#offline);
    this.retry();
  }

  /** What `Relay.resume` needs to go on from here; it can be written as JSON. */
  get saved() {
    return { run: this.run, seq: this.seq, answer: this.answer };
  }

  /** Connect; after "lost", try again from where it was. */
  retry() {
    this.#failures = 0;
    this.#say("connecting");
    this.#open();
  }

  /** Stop following. The run goes on. */
  close() {
    this.#state = "closed";
    this.#hangUp();
    globalThis.removeEventListener?.("online", this.#online);
    globalThis.removeEventListener?.("offline", this.#offline);
  }

  get #closed() {
    return this.#state === "closed";
  }

  // -- connections ----------------------------------------------------------------------------------------------------

  async #open() {
    clearTimeout(this.#again);
    if (this.seq === null && !(await this.#catchUp())) return;
    let before = this.#disconnect; // is kept until the new one is there: some runs end when nobody follows them
    const mine = this.#connect(this.seq, {
      open: () => {
        before?.();
        before = null;
        this.#opened = this.#heard = Date.now();
        this.#say("live");
      },
      event: (type, seq, json) => this.#take(type, seq, json),
      error: (over) => this.#disconnect === disconnect && this.#stumble(over),
    });
    const disconnect = () => {
      before?.();
      mine();
    };
    this.#disconnect = disconnect;
    this.#heard = Date.now();
    clearInterval(this.#watch);
    this.#watch = setInterval(() => Date.now() - this.#heard >= SILENCE_MS && this.#open(), SILENCE_MS / 4);
  }

  #online = () => {
    if (this.#state === "gone") return;
    this.#failures = 0;
    this.#open();
  };

  #offline = () => {
    if (this.#state === "gone" || this.#state === "lost") return;
    this.#hangUp();
    this.#fail();
  };

  /** The connection failed, or was closed without an end. `over`: it will not come back by itself. */
  async #stumble(over) {
    if (Date.now() - this.#opened >= STEADY_MS) this.#failures = 0;
    this.#opened = Infinity;
    if (!over && this.#failures === 0) {
      this.#failures = 1;
      return this.#say(isOffline() ? "offline" : "reconnecting");
    }
    this.#hangUp();
    this.#fail(over ? await this.#refusal() : undefined);
  }

  /** Return why the relay refuses to let the run be followed, if it does: EventSource cannot read a status. */
  #refusal() {
    return this.#snapshot().then(() => {}, (error) => error);
  }

  #fail(error) {
    if (this.#closed || this.#disconnect !== null) return;
    if (isGone(error)) return this.#say("gone", error);
    this.#failures += 1;
    if (isOffline()) this.#say("offline");
    else if (this.#failures > MAX_FAILURES) return this.#say("lost");
    else this.#say("reconnecting");
    clearTimeout(this.#again);
    this.#again = setTimeout(() => this.#open(), backoff(this.#failures));
  }

  #hangUp() {
    clearTimeout(this.#again);
    clearInterval(this.#watch);
    this.#disconnect?.();
    this.#disconnect = null;
  }

  #say(state, error) {
    this.#state = state;
    this.#on.state?.(state, { failures: this.#failures, error });
  }

  // -- what comes -----------------------------------------------------------------------------------------------------

  #take(type, seq, json) {
    if (this.#closed || seq <= this.seq) return;
    const event = JSON.parse(json);
    this.seq = seq;
    this.#heard = Date.now();
    this.#failures = 0;
    fold[type]?.(this.answer, event);
    if (type === "end") this.#finish(event, seq);
    else this.#on[type]?.(event, seq);
  }

  /** Read the snapshot; return whether there is more to come. */
  async #catchUp() {
    try {
      const snapshot = await this.#snapshot();
      if (this.#closed) return false;
      this.#show(snapshot);
      this.seq = snapshot.seq;
      if (snapshot.end) this.#finish(snapshot.end, snapshot.seq);
      return !snapshot.end;
    } catch (error) {
      this.#fail(error);
      return false;
    }
  }

  #show({ text, reasoning, tool_calls, steps, files }) {
    this.answer = { text, reasoning, tool_calls, steps, files };
    this.#on.snapshot?.(this.answer);
  }

  async #finish(end, seq) {
    this.#hangUp(); // else EventSource would come back for more
    if (end.digest) this.intact = matches(this.answer.text, end.digest);
    if (this.intact === false) await this.#reread(end.digest);
    if (this.#closed) return;
    this.#on.end?.(end, seq);
    this.#say("ended");
    this.close();
  }

  /** What was joined is not what was sent: the relay has the whole text, and counts that it was needed. */
  async #reread(digest) {
    const snapshot = await this.#snapshot("?mismatch=1").catch(() => null);
    if (this.#closed || snapshot === null) return;
    this.#show(snapshot);
    this.intact = matches(snapshot.text, digest);
  }
}

/** How events add up to an answer; the relay's snapshots are made the same way. */
const fold = {
  token: (answer, { text }) => (answer.text += text),
  reasoning: (answer, { text }) => (answer.reasoning += text),
  replace: (answer, { text }) => (answer.text = text),
  tool_call: ({ tool_calls }, { index, id, name, arguments: piece }) => {
    const call = tool_calls.find((each) => each.index === index);
    if (!call) return tool_calls.push({ index, id, name, arguments: piece });
    call.id ??= id;
    call.name ??= name;
    call.arguments += piece;
  },
  step: ({ steps }, step) => {
    const at = steps.findIndex(({ id }) => id === step.id);
    if (at < 0) steps.push(step);
    else steps[at] = step;
  },
  file: ({ files }, file) => files.push(file),
};

/** Follow a URL with EventSource. Return how to leave. */
function listen(url, ears) {
  const source = new EventSource(url);
  source.onopen = ears.open;
  source.onerror = () => ears.error(source.readyState === EventSource.CLOSED);
  const hear = (type) => (event) => ears.event(type, Number(event.lastEventId), event.data);
  source.onmessage = hear("token");
  for (const type of NAMED_EVENTS) source.addEventListener(type, hear(type));
  return () => source.close();
}

/** The same with fetch, without a reconnection of its own. */
function listenByFetch(url, ears, headers) {
  const leaving = new AbortController();
  const { signal } = leaving;
  const read = async () => {
    const response = await fetch(url, { headers: { Accept: "text/event-stream", ...headers }, cache: "no-store", signal });
    if (response.status !== 200) return;
    ears.open();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let piece; !(piece = await reader.read()).done; ) {
      const blocks = (rest + piece.value).split("\n\n"); // the relay ends every line so
      rest = blocks.pop();
      for (const block of blocks) dispatch(block, ears);
    }
  };
  const over = () => {
    leaving.abort(); // of a refusal the body is still there
    ears.error(true);
  };
  read().then(over, over);
  return () => leaving.abort();
}

function dispatch(block, ears) {
  const event = { event: "token", id: "0", data: null };
  for (const line of block.split("\n")) {
    const [, name, value] = /^(\w*): ?(.*)$/.exec(line) ?? [];
    if (name in event) event[name] = value;
  }
  if (event.data === null) return; // a heartbeat
  try {
    ears.event(event.event, Number(event.id), event.data);
  } catch (error) {
    queueMicrotask(() => { throw error; }); // a handler's own: the stream goes on, as EventSource's would
  }
}

/**
 * JSON values of this tab, kept over reloads under `name`; where storage is blocked, as in many a frame, or full, only
 * as long as the page is open.
 */
export class TabStore {
  #name;
  #memory = new Map();

  constructor(name) {
    this.#name = name;
  }

  /** Return the value, null where there is none. */
  get(key) {
    try {
      return JSON.parse(this.#memory.get(key) ?? sessionStorage.getItem(`${this.#name}.${key}`));
    } catch {
      return null;
    }
  }

  /** Keep the value; return whether a reload will find it. */
  set(key, value) {
    const text = JSON.stringify(value);
    this.#memory.set(key, text);
    try {
      sessionStorage.setItem(`${this.#name}.${key}`, text);
      return true;
    } catch {
      return false;
    }
  }
}

/** Return a new idempotency key. crypto.randomUUID would need a secure context, so not http:// on a LAN. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** No answer, a router's while the relay restarts, or the old process's last words: another try may pass. */
function mayPass({ code, status }) {
  return code === "unreachable" || code === "draining" || (code === "http" && status >= 502 && status <= 504);
}

/** The relay itself says that it does not have the run. */
function isGone(error) {
  return error !== undefined && error.code !== "http" && (error.status === 404 || error.status === 410);
}

function isOffline() {
  return globalThis.navigator?.onLine === false;
}

/** Double with each failure; half of it is random, or all the clients of a restarted relay would come at once. */
function backoff(failures) {
  return Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** (failures - 1)) * (0.5 + Math.random() / 2);
}

function matches(text, digest) {
  const bytes = new TextEncoder().encode(text);
  return bytes.length === digest.bytes && crc32(bytes) === parseInt(digest.crc32, 16);
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
  return crc;
});

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 255];
  return ~crc >>> 0;
}
