/** The chat page: turns a form into a conversation that survives cuts and reloads. */
import { Relay, TabStore } from "./client.js";
import { Composer } from "./composer.js";
import { connect } from "./embedded.js";
import { EndFollower } from "./scroll.js";
import { Turn } from "./turn.js";

const ANNOUNCED_CHARACTERS = 500; // of an answer, to screen readers, once it is complete

class Chat {
  conversationId = null; // set by turns that entered the history
  current = null; // the turn that is being answered
  #turns = [];
  #store = new TabStore(`sluice${window.name}`); // frames of one page share a storage: embed.js names them
  relay = new Relay(undefined, { visitor: this.#visitor(), keepVisitor: (token) => this.#store.set("visitor", token) });
  #announced = new Set(); // of this answer: every state is told once, and a flickering connection tires nobody
  #transcript = document.getElementById("transcript");
  #greeting = this.#transcript.querySelector(".greeting");
  #connection = document.getElementById("connection");
  #announcer = document.getElementById("announcer");
  texts = JSON.parse(this.#transcript.dataset.texts);

  scroll = new EndFollower(this.#transcript, document.getElementById("latest"));

  constructor() {
    this.composer = new Composer(document.getElementById("composer"), this.#store, {
      submit: (text, isEdit) => this.#submit(text, isEdit),
      stop: () => this.current?.stop(),
    });
    this.#restore();
    addEventListener("pagehide", () => this.save());
  }

  /** Return the visitor's token. In a frame on another site no cookie says at a reload who asked before: the tab does. */
  #visitor() {
    const { visitor_token: field } = document.getElementById("composer").elements;
    if (!field) return undefined;
    const kept = this.#store.get("visitor");
    if (kept === null) this.#store.set("visitor", field.value);
    return kept ?? field.value;
  }

  /** Ask a new question; return whether it was taken. One at a time: while one is answered, none is. */
  ask(prompt) {
    if (this.current !== null) return false;
    this.#add({ ask: { prompt } }).ask();
    return true;
  }

  /** Let the last question be asked otherwise. */
  edit(turn) {
    this.composer.edit(turn.prompt);
  }

  /** Begin a new conversation; the old one's run is stopped. */
  reset() {
    this.composer.cancelEdit();
    this.current?.stop();
    this.current = null;
    for (const turn of this.#turns) turn.leave();
    this.#turns = [];
    this.conversationId = null;
    this.#transcript.replaceChildren(this.#greeting);
    this.#greeting.hidden = false;
    this.#announcer.textContent = "";
    this.#idle();
    this.save();
    this.composer.focus();
  }

  /** The relay knows the conversation no more. */
  forget() {
    this.conversationId = null;
    for (const turn of this.#turns) turn.forget();
  }

  /** Keep everything for a reload; where there is no room for it, without the oldest turns. */
  save() {
    const turns = this.#turns.map(({ record }) => record);
    while (!this.#store.set("chat", { conversationId: this.conversationId, turns }) && turns.length > 1) turns.shift();
  }

  #submit(text, isEdit) {
    if (!isEdit || this.#turns.length === 0) return this.ask(text);
    if (this.current !== null) return false;
    this.#turns.at(-1).ask(text);
    return true;
  }

  #restore() {
    const kept = this.#store.get("chat");
    if (kept === null) return;
    this.conversationId = kept.conversationId;
    for (const record of kept.turns) this.#add(record).restore();
  }

  #add(record) {
    this.#greeting.hidden = true;
    const turn = new Turn(this, record);
    this.#turns.push(turn);
    this.#transcript.append(turn.element);
    return turn;
  }

  // -- what turns tell ------------------------------------------------------------------------------------------------

  begin(turn, hadFocus) {
    this.scroll.jump();
    this.current = turn;
    this.#announced.clear();
    this.composer.setBusy(true, hadFocus);
    this.tell("connecting");
  }

  /** `words`: what there is to say of it, "" where an alert has said it. */
  finish(turn, words) {
    if (this.current !== turn) return; // restored as it had ended
    this.current = null;
    this.save();
    this.#idle();
    if (words) this.#announce(words.slice(0, ANNOUNCED_CHARACTERS));
  }

  /** Show the state of the connection. `failures`: how often in a row it failed. */
  tell(state, failures = 0) {
    const [words, count] = this.#connection.children;
    this.#connection.hidden = false;
    this.#connection.dataset.state = state;
    words.textContent = this.texts[state];
    count.textContent = state === "reconnecting" && failures > 1 ? `(${failures})` : "";
    if (state === "connecting" || this.#announced.has(state)) return;
    this.#announced.add(state);
    this.#announce(this.texts[state]);
  }

  #idle() {
    this.#connection.hidden = true;
    this.composer.setBusy(false);
  }

  #announce(words) {
    this.#announcer.textContent = words;
  }
}

const chat = new Chat();
const origins = document.getElementById("transcript").dataset.embedOrigins.split(" ");
const closeFrame = connect(
  { open: () => chat.composer.focus(), reset: () => chat.reset(), send: (text) => chat.ask(text) },
  [location.origin, ...origins],
);

document.getElementById("new-chat").addEventListener("click", (click) => {
  if (click.ctrlKey || click.metaKey || click.shiftKey) return; // into another tab
  click.preventDefault();
  chat.reset();
});

document.addEventListener("keydown", (key) => {
  if (key.key !== "Escape" || chat.composer.isComposing(key) || chat.composer.cancelEdit()) return;
  if (chat.current !== null) chat.current.stop();
  else closeFrame?.();
});
