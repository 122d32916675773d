/** One question and its answer: what was asked, what came of it, and what can be done about it. */
import { AnswerView, copyText } from "./answer.js";
import { newKey } from "./client.js";

const GOOD_ENDS = ["done", "stopped", "paused"];
const COPIED_MS = 2000;

/**
 * A turn can be written as JSON (`record`) and made from it in another life of the page: a reload in mid-answer goes on
 * where it was, one in mid-question asks again with the same key. Neither starts a second generation.
 */
export class Turn {
  #chat;
  #record;
  #follower = null;
  #view = null;
  #note = null;
  #stopAsked = false;
  #left = false;
  #prompt;
  #answer;

  /** `record`: what was kept of it, or `{ask: {prompt}}` alone for a new one. */
  constructor(chat, record) {
    this.#chat = chat;
    this.#record = record;
    const { texts } = chat;
    this.element = make("div", "turn");
    const question = add(this.element, "article", "question");
    question.ariaLabel = texts.you;
    this.#prompt = add(question, "div", "words", this.prompt);
    const asked = add(this.element, "div", "actions asked");
    addButton(asked, texts.edit, () => chat.edit(this), "last idle");
    addButton(asked, texts.curl, (button) => copy(curl(this.prompt), button, texts));
    this.#answer = add(this.element, "article", "answer");
    this.#answer.ariaLabel = texts.answer;
    const answered = add(this.element, "div", "actions");
    addButton(answered, texts.copy, (button) => copy(this.#view.source(), button, texts));
    addButton(answered, texts.regenerate, () => this.ask(), "last idle");
    this.#show(record.answer);
    if (record.forgotten) this.#sayForgotten();
  }

  get record() {
    return this.#follower ? { ...this.#record, ...this.#follower.saved } : this.#record;
  }

  get prompt() {
    return this.#record.ask.prompt;
  }

  /** Ask, as a new run that takes the place of what was answered before. What failed is not in the history. */
  ask(prompt = this.prompt) {
    const { conversationId } = this.#chat;
    const { inHistory, forgotten } = this.#record;
    const ask = { prompt };
    if (conversationId !== null) ask.conversation_id = conversationId;
    if (conversationId !== null && inHistory) ask.replace_last = true;
    this.#record = { ask, key: newKey(), inHistory, forgotten };
    this.#follower = null;
    this.#prompt.textContent = prompt;
    this.#show();
    this.#start();
  }

  /** Go on from the record. */
  restore() {
    const { run, end, failure } = this.#record;
    if (end) this.#close(end);
    else if (failure) this.#fail(failure);
    else if (run) {
      this.#begin();
      this.#follow("resume");
    } else this.#start();
  }

  /** Stop the run; its end tells what came of it. */
  async stop() {
    this.#stopAsked = true;
    if (!this.#left) this.#chat.tell("stopping");
    if (!this.#record.run) return; // #start comes back to it
    try {
      await this.#chat.relay.stop(this.#record.run);
    } catch {
      this.#stopAsked = false;
      if (this.#chat.current === this) this.#chat.tell("unstopped");
    }
  }

  /** Take it off the page. */
  leave() {
    this.#left = true;
    this.#follower?.close();
    this.element.remove();
  }

  /** Its conversation is no more. */
  forget() {
    this.#record.inHistory = false;
  }

  // -- asking and following -------------------------------------------------------------------------------------------

  async #start() {
    this.#begin();
    const record = this.#record;
    this.#chat.save();
    try {
      record.run = await this.#chat.relay.start(record.ask, record.key);
    } catch (error) {
      if (this.#left) return;
      if (error.code === "conversation_not_found") return this.#startAnew();
      return this.#fail({ code: error.code, message: error.message, again: "start" });
    }
    if (this.#stopAsked) this.stop();
    if (this.#left) return;
    this.#chat.save();
    this.#follow("follow");
  }

  #startAnew() {
    this.#chat.forget();
    this.#record.forgotten = true;
    this.#record.ask = { prompt: this.prompt };
    this.#sayForgotten();
    return this.#start();
  }

  /** `how`: "follow" from the beginning, or "resume" from the record. */
  #follow(how) {
    const { relay } = this.#chat;
    this.#follower = relay[how](how === "follow" ? this.#record.run : this.#record, {
      token: ({ text }) => this.#view.append(text),
      reasoning: ({ text }) => this.#view.reasoning(text),
      replace: ({ text }) => this.#view.replace(text),
      tool_call: (call) => this.#view.toolCall(call),
      step: (step) => this.#view.step(step),
      file: (file) => this.#view.file(file),
      snapshot: (answer) => this.#show(answer),
      end: (end) => this.#end(end),
      state: (state, { failures, error }) => this.#changeState(state, failures, error),
    });
  }

  #changeState(state, failures, error) {
    if (state === "lost") return this.#fail({ code: "lost", again: "follow" });
    if (state === "gone") return this.#fail({ code: "gone", message: error.message, again: "ask" });
    if (state !== "ended" && !this.#stopAsked) this.#chat.tell(state, failures);
  }

  #end(end) {
    const { seq, answer } = this.#follower.saved;
    const inHistory = ["done", "stopped"].includes(end.reason) ? answer.text !== "" : this.#record.inHistory;
    Object.assign(this.#record, { seq, answer, end, inHistory, intact: this.#follower.intact });
    if (["done", "stopped"].includes(end.reason)) this.#chat.conversationId = this.#record.run.conversation_id;
    this.#follower = null;
    this.#close(end);
  }

  #close(end) {
    const { texts } = this.#chat;
    this.#view.finish(end);
    if (this.#record.intact === false) this.#addNote(texts.altered, true);
    const { reason, error } = end;
    if (reason === "error") return this.#fail({ ...error, again: error.retryable ? "ask" : null });
    if (!GOOD_ENDS.includes(reason)) return this.#fail({ code: "interrupted", again: "ask" });
    if (reason !== "done") this.#addNote(texts[reason]);
    this.#finish(`${texts[reason]} ${this.#view.source()}`);
  }

  #fail({ code, message, again }) {
    const { texts } = this.#chat;
    const { end } = this.#record;
    if (!end && code !== "lost") this.#record.failure = { code, message, again }; // a lost one is tried after a reload
    const note = this.#addNote(texts.failures[code] ?? texts[code] ?? message, true);
    if (again) addButton(note, texts.retry, () => this.#retry(again), "last");
    this.#finish();
  }

  #retry(again) {
    delete this.#record.failure;
    if (again === "ask") return this.ask();
    if (again === "start") return this.#start();
    this.#begin();
    this.#follower.retry();
  }

  // -- what is seen ---------------------------------------------------------------------------------------------------

  #begin() {
    const hadFocus = this.element.contains(document.activeElement); // on a button that goes now
    this.#note?.remove();
    this.#note = null;
    this.#stopAsked = false;
    this.element.classList.add("live");
    this.#chat.begin(this, hadFocus);
  }

  #finish(words = "") {
    this.element.classList.remove("live");
    this.#chat.finish(this, words);
  }

  /** Show this answer in the place of all that is there. */
  #show(answer) {
    this.#view = new AnswerView(this.#chat.texts, () => this.#chat.scroll.painted());
    this.#answer.replaceChildren(this.#view.element);
    if (!answer) return;
    if (answer.reasoning) this.#view.reasoning(answer.reasoning);
    for (const call of answer.tool_calls) this.#view.toolCall(call);
    for (const step of answer.steps) this.#view.step(step);
    if (answer.text) this.#view.append(answer.text);
    for (const file of answer.files) this.#view.file(file);
  }

  #addNote(text, isError = false) {
    this.#note = add(this.#answer, "p", isError ? "note error" : "note", text, " ");
    if (isError && this.#chat.current === this) this.#note.role = "alert"; // not for what a reload shows again
    return this.#note;
  }

  #sayForgotten() {
    this.element.prepend(make("p", "hint", this.#chat.texts.forgotten));
  }
}

/** Return a new element that holds `children`. Strings become text, never markup. */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

function add(parent, ...what) {
  const element = make(...what);
  parent.append(element);
  return element;
}

function addButton(parent, label, onclick, className = "") {
  const button = add(parent, "button", className, label);
  button.type = "button";
  button.onclick = () => onclick(button);
}

/** Return a command that asks the same in a terminal. */
function curl(prompt) {
  const quoted = `prompt=${prompt}`.replaceAll("'", "'\\''");
  return `curl -N ${new URL("/stream", location)} --data-urlencode '${quoted}'`;
}

async function copy(text, button, texts) {
  const label = button.textContent;
  button.textContent = (await copyText(text)) ? texts.copied : texts.uncopied;
  setTimeout(() => (button.textContent = label), COPIED_MS);
}
