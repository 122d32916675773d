/**
 * The chat page: turns a form into a conversation. Whatever came from a model or a server becomes text, never HTML.
 */
import { Relay, newKey } from "./client.js";

const TEXTS = {
  en: {
    connecting: "Connecting…",
    live: "Answering…",
    reconnecting: "Connection lost, reconnecting…",
    stopping: "Stopping…",
    done: "Answer complete.",
    stopped: "Stopped.",
    paused: "Paused: the answer waits for a person.",
    interrupted: "The answer was interrupted.",
    lost: "The connection is lost.",
    gone: "The relay no longer has this answer.",
    altered: "This text is not exactly what was sent.",
    unreachable: "The relay cannot be reached.",
    http: "Something on the way to the relay refused the request.",
    unstopped: "Stopping failed; the answer goes on.",
    forgotten: "The earlier conversation has expired; a new one begins here.",
    thinking: "Thinking",
    retry: "Retry",
  },
  zh: {
    connecting: "正在连接……",
    live: "正在回答……",
    reconnecting: "连接中断，正在重连……",
    stopping: "正在停止……",
    done: "回答完毕。",
    stopped: "已停止。",
    paused: "回答已暂停，等待人工处理。",
    interrupted: "回答中断了。",
    lost: "连接已断开。",
    gone: "服务器已不再保存这个回答。",
    altered: "这段文字与发出的不完全一致。",
    unreachable: "无法连接服务器。",
    http: "请求在途中被拒绝了。",
    unstopped: "停止失败，回答仍在继续。",
    forgotten: "之前的对话已过期，从这里开始新的对话。",
    thinking: "思考过程",
    retry: "重试",
  },
};
// The server chose by the browser's languages (templates/layout.html); so page and texts cannot differ.
const texts = document.documentElement.lang.startsWith("zh") ? TEXTS.zh : TEXTS.en;

/** How near the end, in pixels, still counts as reading along. */
const END_PX = 48;

const relay = new Relay();
const transcript = document.getElementById("transcript");
const form = document.getElementById("composer");
const status = document.getElementById("status");
const sendButton = document.getElementById("send");
const stopButton = document.getElementById("stop");
const question = form.elements.prompt;

let conversationId = null; // set by turns that entered the history
let current = null; // the turn that is being answered

/** Return a new element that holds `children`, the last thing in `parent`. Strings become text. */
function add(parent, tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  parent.append(element);
  return element;
}

/** A text that only grows. One text node, extended in place: selections survive, and only the tail is laid out. */
class GrowingText {
  #node = document.createTextNode("");

  constructor(element) {
    element.append(this.#node);
  }

  append(text) {
    this.#node.appendData(text);
  }

  replace(text) {
    this.#node.data = text;
  }
}

/** One question and its answer, from the first try to the last. */
class Turn {
  #prompt;
  #key = newKey(); // the same for every try to start, so that none starts a second generation
  #run = null;
  #follower = null;
  #stopAsked = false;
  #question = null;
  #article = null;
  #text = null;
  #reasoning = null;
  #note = null;

  constructor(prompt) {
    this.#prompt = prompt;
    this.#question = add(transcript, "article", "question", prompt);
    this.#clear();
  }

  async start() {
    this.#begin("connecting");
    try {
      this.#run = await this.#startRun();
    } catch (error) {
      return this.#fail(texts[error.code] ?? error.message, () => this.start());
    }
    this.#follower = relay.follow(this.#run, this.#handlers());
    if (this.#stopAsked) this.stop();
  }

  async stop() {
    this.#stopAsked = true;
    this.#say("stopping");
    if (this.#run === null) return; // start() comes back to it
    try {
      await relay.stop(this.#run);
    } catch {
      this.#stopAsked = false;
      if (current === this) this.#say("unstopped");
    }
  }

  /** Make the turn a thing of the past: what it offered to do again would now come out of order. */
  close() {
    this.#note?.querySelector("button")?.remove();
  }

  async #startRun() {
    const ask = { prompt: this.#prompt };
    if (conversationId !== null) ask.conversation_id = conversationId;
    try {
      return await relay.start(ask, this.#key);
    } catch (error) {
      if (error.code !== "conversation_not_found") throw error;
    }
    conversationId = null;
    this.#question.before(add(transcript, "p", "hint", texts.forgotten));
    return this.#startRun();
  }

  #handlers() {
    return {
      token: ({ text }) => this.#grow(this.#text, text),
      reasoning: ({ text }) => this.#grow((this.#reasoning ??= this.#addReasoning()), text),
      replace: ({ text }) => this.#text.replace(text),
      step: ({ name, status }) => status === "started" && name && this.#say("live", name),
      file: (file) => this.#addFile(file),
      end: (end) => this.#end(end),
      state: (state) => this.#changeState(state),
    };
  }

  #grow(growing, text) {
    growing.append(text);
    keepEndInView();
  }

  #changeState(state) {
    if (state === "lost") return this.#fail(texts.lost, () => this.#followAgain());
    if (state === "gone") return this.#fail(texts.gone, () => this.#startAgain());
    if (!this.#stopAsked) this.#say(state);
  }

  #end({ reason, error }) {
    if (reason === "done" || reason === "stopped") conversationId = this.#run.conversation_id;
    if (this.#follower.intact === false) this.#addNote("note error", texts.altered);
    if (["done", "stopped", "paused"].includes(reason)) {
      if (reason !== "done") this.#addNote("note", texts[reason]);
      return this.#finish(reason);
    }
    const mayHelp = error?.retryable ?? true;
    this.#fail(error?.message ?? texts.interrupted, mayHelp && (() => this.#startAgain()));
  }

  #fail(message, retry) {
    this.#addNote("note error", message, " ");
    if (retry) {
      const button = add(this.#note, "button", "", texts.retry);
      button.type = "button";
      button.onclick = retry;
    }
    this.#finish("failed", message);
  }

  #followAgain() {
    this.#begin("connecting");
    this.#follower.retry();
  }

  /** Ask again, as a new run. A turn that failed did not enter the history. */
  #startAgain() {
    this.#key = newKey();
    this.#run = null;
    this.#article.remove();
    this.#clear();
    this.start();
  }

  #clear() {
    this.#article = add(transcript, "article", "answer");
    this.#text = new GrowingText(add(this.#article, "div", "text"));
    this.#reasoning = this.#note = null;
  }

  #addReasoning() {
    const details = document.createElement("details");
    add(details, "summary", "", texts.thinking);
    this.#article.prepend(details);
    return new GrowingText(add(details, "div", "reasoning"));
  }

  #addFile({ kind, url }) {
    const { href, protocol } = new URL(url, location.href);
    if (protocol !== "https:" && protocol !== "http:") return; // javascript: and the like
    const link = add(add(this.#article, "p", "file"), "a", "", kind);
    link.href = href;
    link.rel = "noopener noreferrer nofollow";
    link.target = "_blank";
  }

  #addNote(className, ...children) {
    this.#note = add(this.#article, "p", className, ...children);
  }

  #begin(state) {
    if (this.#note !== null) this.#note.remove();
    this.#note = null;
    this.#stopAsked = false;
    this.#article.classList.add("live");
    setCurrent(this);
    this.#say(state);
    keepEndInView();
  }

  #finish(state, message) {
    this.#article.classList.remove("live");
    setCurrent(null);
    this.#say(state, message);
    keepEndInView();
  }

  #say(state, message = texts[state]) {
    status.dataset.state = state;
    if (status.textContent !== message) status.textContent = message; // told once, not with every reconnect
  }
}

function setCurrent(turn) {
  const focused = document.activeElement === stopButton || document.activeElement === sendButton;
  current = turn;
  sendButton.hidden = turn !== null;
  stopButton.hidden = turn === null;
  if (focused) question.focus(); // else it would be lost with the button
}

// -- following the end, unless the reader has scrolled away from it ---------------------------------------------------

let following = true;
let lastTop = 0;
let scrollPlanned = false;

transcript.addEventListener("scroll", () => {
  const atEnd = transcript.scrollHeight - transcript.scrollTop - transcript.clientHeight < END_PX;
  // Only upwards means away: text may have come since we scrolled to what was the end.
  if (atEnd || transcript.scrollTop < lastTop) following = atEnd;
  lastTop = transcript.scrollTop;
});

/** Scroll once a frame, however many tokens came. */
function keepEndInView() {
  if (!following || scrollPlanned) return;
  scrollPlanned = true;
  requestAnimationFrame(() => {
    scrollPlanned = false;
    if (following) transcript.scrollTop = transcript.scrollHeight;
  });
}

// A question of many lines, or a phone's keyboard, takes height away from below.
new ResizeObserver(keepEndInView).observe(transcript);

// -- asking -----------------------------------------------------------------------------------------------------------

let latest = null;

form.addEventListener("submit", (submit) => {
  submit.preventDefault();
  const prompt = question.value.trim();
  if (current !== null || prompt === "") return;
  transcript.querySelector(".hint.first")?.remove();
  latest?.close();
  latest = new Turn(prompt);
  question.value = "";
  following = true;
  latest.start();
});

question.addEventListener("keydown", (key) => {
  if (key.key !== "Enter" || key.shiftKey) return;
  // The Enter that confirms an input method's candidate. Safari ends the composition before it: only 229 tells there.
  if (key.isComposing || key.keyCode === 229) return;
  key.preventDefault();
  form.requestSubmit();
});

stopButton.addEventListener("click", () => current?.stop());
