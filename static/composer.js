/** The box in which questions are written: what is written there is never lost, and half a word is never sent. */

export class Composer {
  #form;
  #box;
  #store;
  #send;
  #stop;
  #editing;
  #draft = ""; // what was in the box before an edit began
  #isEdit = false;
  #composing = false;

  /** `store`: see TabStore. `submit(text, isEdit)` returns whether the text was taken; `stop()` is asked by Stop. */
  constructor(form, store, { submit, stop }) {
    this.#form = form;
    this.#store = store;
    this.#box = form.elements.prompt;
    this.#send = form.querySelector("#send");
    this.#stop = form.querySelector("#stop");
    this.#editing = form.querySelector("#editing");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(submit);
    });
    this.#stop.addEventListener("click", stop);
    this.#editing.querySelector("button").addEventListener("click", () => this.cancelEdit());
    this.#box.addEventListener("input", () => this.#keep());
    this.#box.addEventListener("compositionstart", () => (this.#composing = true));
    for (const type of ["compositionend", "blur"]) this.#box.addEventListener(type, () => (this.#composing = false));
    this.#box.addEventListener("keydown", (key) => {
      if (key.key !== "Enter" || key.shiftKey || this.isComposing(key)) return;
      key.preventDefault();
      form.requestSubmit();
    });
    this.#restore();
  }

  /**
   * Return whether the key belongs to an input method, as the Enter that confirms a candidate does. Safari ends the
   * composition before that Enter comes: there only 229 tells.
   */
  isComposing(key) {
    return this.#composing || key.isComposing || key.keyCode === 229;
  }

  /** Show Stop in the place of Send, or the other way round. Focus moves on where its button goes (`moveFocus`). */
  setBusy(busy, moveFocus = false) {
    moveFocus ||= [this.#send, this.#stop].includes(document.activeElement);
    this.#send.hidden = busy;
    this.#stop.hidden = !busy;
    if (moveFocus && busy) this.#stop.focus();
    else if (moveFocus) this.focus();
  }

  /** Go to the box; where that would bring up a phone's keyboard, to the button beside it. */
  focus() {
    (matchMedia("(pointer: coarse)").matches ? this.#send : this.#box).focus();
  }

  /** Let a text be edited; the draft comes back afterwards. */
  edit(text) {
    if (!this.#isEdit) this.#draft = this.#box.value;
    this.#isEdit = true;
    this.#editing.hidden = false;
    this.#box.value = text;
    this.#keep();
    this.#box.focus();
  }

  /** Return whether there was an edit to cancel. */
  cancelEdit() {
    if (!this.#isEdit) return false;
    this.#clear();
    this.#box.focus();
    return true;
  }

  #submit(submit) {
    const text = this.#box.value.trim();
    if (text !== "" && submit(text, this.#isEdit)) this.#clear();
  }

  #clear() {
    this.#box.value = this.#draft;
    this.#draft = "";
    this.#isEdit = false;
    this.#editing.hidden = true;
    this.#keep();
  }

  #keep() {
    this.#store.set("composer", { text: this.#box.value, draft: this.#draft, isEdit: this.#isEdit });
  }

  /** What somebody typed before this script came wins. */
  #restore() {
    const kept = this.#store.get("composer");
    if (kept === null || this.#box.value !== "") return;
    this.#draft = kept.draft;
    this.#isEdit = kept.isEdit;
    this.#editing.hidden = !kept.isEdit;
    this.#box.value = kept.text;
  }
}
