/**
 * One answer, as it grows:
 *
 *     const view = new AnswerView(texts, painted);
 *     article.append(view.element);
 *     view.append("Hel"); // reasoning, replace; step, toolCall, file: what the event of that name says
 *     view.source(); // the exact text, at any time
 *     await view.finish(); // now all of it can be seen
 *
 * `texts`: the labels `thinking`, `steps`, `code`, `table`, `copy`, `copied` and `uncopied`. `painted()` is called when
 * there is something new to see, so that a page may scroll along.
 *
 * The first words show at once; those that come within a frame show together at the next. Work beyond WORK_MS goes on
 * a frame later: after a reconnect with 10,000 tokens in one read the page still listens to its reader.
 */
import { add, appendText, isHalf, pointTo } from "./inline.js";
import { Markdown } from "./markdown.js";

const WORK_MS = 6;
/** How much is written between two looks at the clock, in UTF-16 units. */
const PIECE = 1024;
/** A hidden tab draws no frames: there a timer takes over. */
const HIDDEN_MS = 250;
const COPIED_MS = 2000;

export class AnswerView {
  element = document.createElement("div");
  #texts;
  #painted;
  #source = "";
  #body = add(this.element, "div", "text");
  #markdown;
  #reasoning = null;
  #steps = null; // {list, summary}
  #items = new Map(); // steps by id, tool calls by index
  #pending = new Map(); // texts, by what they are to be written to
  #changed = false; // since the last paint
  #frame = 0; // the planned one
  #timer = 0;
  #finished = null;

  constructor(texts, painted = () => {}) {
    this.#texts = texts;
    this.#painted = painted;
    this.#markdown = this.#newMarkdown();
    this.element.addEventListener("click", ({ target }) => target.matches(".copy") && this.#copy(target));
  }

  append(text) {
    this.#source += text;
    this.#write(this.#markdown, text);
  }

  /** Begin anew with `text`. */
  replace(text) {
    this.#pending.delete(this.#markdown);
    this.#body.replaceChildren();
    this.#markdown = this.#newMarkdown();
    this.#source = "";
    this.append(text);
  }

  reasoning(text) {
    this.#reasoning ??= new Plain(add(this.#addDetails("thinking"), "div", "reasoning"));
    this.#write(this.#reasoning, text);
  }

  step({ id, name, status }) {
    if (!name) return; // nothing to show of it
    this.#item(id, name).element.dataset.status = status;
    this.#change();
  }

  toolCall({ index, name, arguments: text = "" }) {
    const item = this.#item(index, name);
    this.#write((item.arguments ??= new Plain(add(item.element, "code"))), text);
  }

  file({ kind, url }) {
    const { href, protocol, pathname } = URL.canParse(url, location.href) ? new URL(url, location.href) : {};
    if (protocol !== "https:" && protocol !== "http:") return; // javascript: and the like
    const link = pointTo(add(add(this.element, "p", "file"), "a"), href);
    link.append(fileName(pathname) ?? kind);
    this.#change();
  }

  /** Return the answer as it was written, at any time. */
  source() {
    return this.#source;
  }

  /** Nothing more will come. The promise is kept when everything is shown. */
  finish() {
    return new Promise((resolve) => {
      this.#finished = resolve;
      this.#change();
    });
  }

  // -- painting -------------------------------------------------------------------------------------------------------

  #write(target, text) {
    this.#pending.set(target, (this.#pending.get(target) ?? "") + text);
    this.#change();
  }

  #change() {
    this.#changed = true;
    if (this.#frame === 0) this.#paint();
  }

  #paint() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#frame = 0;
    if (!this.#changed) return; // for a whole frame: the next words show at once again
    this.#changed = !this.#work();
    if (this.#finished && !this.#changed) this.#end();
    this.#frame = requestAnimationFrame(() => this.#paint());
    this.#timer = setTimeout(() => this.#paint(), HIDDEN_MS);
    this.#painted();
  }

  /** Write what is pending; return whether the time was enough. */
  #work() {
    const until = document.hidden ? Infinity : performance.now() + WORK_MS;
    for (const [target, text] of this.#pending) {
      const isWhole = this.#finished || !isHalf(text, text.length);
      const ready = isWhole ? text.length : text.length - 1; // the other half of a character is on its way
      for (let at = 0; at < ready; ) {
        let end = Math.min(at + PIECE, ready);
        if (isHalf(text, end)) end += 1;
        target.write(text.slice(at, end));
        at = end;
        this.#pending.set(target, text.slice(at));
        if (at < ready && !document.hidden) this.element.getBoundingClientRect(); // to lay it out is most of the work
        if (performance.now() >= until) return false;
      }
      if (isWhole) this.#pending.delete(target);
    }
    return true;
  }

  #end() {
    this.#markdown.end();
    if (this.#steps) this.#steps.summary.data = `${this.#texts.steps} (${this.#items.size})`;
    this.#finished();
  }

  // -- parts ----------------------------------------------------------------------------------------------------------

  #newMarkdown() {
    const onCode = (code, language) => whenIdle(() => colour(code, language));
    return new Markdown(this.#body, { texts: this.#texts, onCode });
  }

  /** What comes beside the answer stands before it, folded. */
  #addDetails(name) {
    const details = document.createElement("details");
    details.className = name;
    add(details, "summary").append(this.#texts[name]);
    this.#body.before(details);
    return details;
  }

  #item(key, name) {
    if (!this.#items.has(key)) {
      if (this.#steps === null) {
        const details = this.#addDetails("steps");
        this.#steps = { list: add(details, "ol"), summary: details.firstChild.firstChild };
      }
      const element = add(this.#steps.list, "li");
      const label = element.appendChild(document.createTextNode(""));
      this.#items.set(key, { element, label });
    }
    const item = this.#items.get(key);
    if (name) item.label.data = this.#steps.summary.data = name;
    return item;
  }

  async #copy(button) {
    const done = await copyText(button.parentNode.querySelector("code").textContent);
    button.dataset.state = done ? "copied" : "uncopied";
    button.ariaLabel = button.title = this.#texts[button.dataset.state];
    setTimeout(() => {
      delete button.dataset.state;
      button.ariaLabel = button.title = this.#texts.copy;
    }, COPIED_MS);
  }
}

/** Return the name that a path ends with, if it looks like a file's. */
function fileName(path) {
  const name = /[^/]+\.\w+$/.exec(path)?.[0];
  try {
    return name && decodeURIComponent(name);
  } catch {
    return name; // not UTF-8
  }
}

/** Text that is no Markdown. */
class Plain {
  constructor(element) {
    this.element = element;
  }

  write(text) {
    appendText(this.element, text);
  }
}

/** Put a text on the clipboard; return whether that was possible. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // http:// on a LAN, or a frame that may not
    const put = (event) => {
      event.clipboardData.setData("text/plain", text);
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    addEventListener("copy", put, { capture: true, once: true });
    const done = document.execCommand("copy");
    removeEventListener("copy", put, true);
    return done;
  }
}

/** Colours are for when there is nothing better to do, and nothing is lost without them. */
async function colour(code, language) {
  const { highlight } = await import("./code.js");
  await highlight(code, language);
}

function whenIdle(work) {
  if (globalThis.requestIdleCallback) requestIdleCallback(work);
  else setTimeout(work, HIDDEN_MS); // Safari
}
