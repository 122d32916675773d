/**
 * What is inside a block of Markdown, as DOM nodes while it is being written:
 *
 *     const inline = new Inline(paragraph);
 *     inline.write("some **bo");
 *     inline.write("ld** words");
 *     inline.end();
 *
 * Nodes are only added, texts only grow. What may be a marker waits for the character that tells, a link until it is
 * whole. Emphasis and code show from their opening marker on; if none closes them, it is put before them and the class
 * "unclosed" takes their looks away: no character is lost.
 *
 * No HTML comes of it, no address but http, https and mailto, no image: a model must not make a browser fetch.
 * Unlike CommonMark: bold works beside full-width punctuation; a*b*c, formulas and newlines stay; addresses are links.
 */

const TEXT_NODE_MAX = 4096; // UTF-16 units, as all lengths; the end of a longer one is slow to lay out
const LABEL_MAX = 150; // of a link: more is never held back
const URL_MAX = 2048;
const RUN_MAX = 8; // of equal markers
const OPEN_MAX = 16; // elements within each other: browsers lay them out by recursion
const ELEMENTS_MAX = 1000; // in one block: the time to lay them out grows with their square

const NEWLINE = 10;
const BACKSLASH = 92;
const TAGS = { "*": "em", _: "em", "**": "strong", __: "strong", "~~": "del" };
const FORMULAS = { "\\(": "\\)", "\\[": "\\]", $$: "$$" };
const MARK = /[\\`*_~[!<$]|h(?=t|$)/g;
const RUN = /`{1,8}|\*{1,8}|_{1,8}|~{1,8}/y;
const ESCAPED = /\\[\\`*_~#+\-.!<>|$]/; // not \{ or \%, which belong to formulas
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const LETTER = /[\p{L}\p{N}]/u;
const CJK = /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Hang}]/u;
const BREAKS = ["<br>", "<br/>", "<br />"];
const SCHEMES = ["https://", "http://"];
const URL_HERE = /https?:\/\/[^\s<>"`*|\\^{}[\]\u0080-\uffff]+/y; // Chinese may follow without a space
const TARGET = /^<?([^\s<>]*)>?(?:\s+(["'(].*))?$/;
const TITLE_END = /.["')]$/;

export class Inline {
  #element; // the innermost that is open
  #inLink;
  #left = ELEMENTS_MAX;
  #open = []; // {marker, element}, outermost first
  #verbatim = ""; // what ends the code or formula; up to there all is text
  #held = ""; // not understood yet
  #before = ""; // the character before it
  #text = ""; // understood, not shown yet

  /** `inLink`: links stay text, as they do not nest. */
  constructor(element, inLink = false) {
    this.#element = element;
    this.#inLink = inLink;
  }

  /** `text` never ends inside a surrogate pair. */
  write(text) {
    this.#read(this.#held + text, false);
  }

  end() {
    this.#read(this.#held, true);
    this.#close(0);
  }

  #read(text, final) {
    let at = 0;
    while (at < text.length) {
      const mark = this.#nextMark(text, at);
      this.#text += text.slice(at, mark);
      const before = characterBefore(text, mark) || this.#before;
      const length = mark < text.length ? this.#take(text, mark, final, before) : 0;
      at = mark + length;
      if (length === 0) break;
    }
    this.#before = characterBefore(text, at) || this.#before;
    this.#held = text.slice(at);
    this.#show();
  }

  #nextMark(text, at) {
    MARK.lastIndex = at;
    const mark = this.#verbatim ? text.indexOf(this.#verbatim[0], at) : (MARK.exec(text)?.index ?? -1);
    return mark < 0 ? text.length : mark;
  }

  /** Return how many characters from `at` on are understood, 0 to wait for more. */
  #take(text, at, final, before) {
    const mark = text[at];
    if (mark === "\\" || mark === "$") return this.#escape(text.slice(at, at + 2), final);
    if (mark === "[" || mark === "!") return this.#link(text, at, final);
    if (mark === "<") return this.#break(text.slice(at, at + 6), final);
    if (mark === "h") return this.#bareUrl(text, at, final, before);
    const run = match(RUN, text, at);
    const end = at + run.length;
    if (end === text.length && !final) return 0;
    const after = end < text.length ? String.fromCodePoint(text.codePointAt(end)) : "";
    if (before === mark || run.length === RUN_MAX) return this.#say(run); // part of a longer one
    if (mark === "`") this.#code(run, after);
    else this.#emphasis(run, before, after);
    return run.length;
  }

  #code(run, after) {
    if (run === this.#verbatim) {
      this.#verbatim = "";
      this.#close(this.#open.length - 1, true);
    } else if (this.#verbatim || after === "" || this.#left === 0) {
      this.#say(run);
    } else {
      this.#begin(run, "code");
      this.#verbatim = run;
    }
  }

  #emphasis(run, before, after) {
    const opens = mayOpen(run, before, after);
    let left = run;
    if (mayClose(run, before, after)) {
      for (let index; (index = this.#opened(left, opens)) >= 0; ) {
        left = left.slice(this.#open[index].marker.length);
        this.#close(index, true);
      }
    }
    const markers = left.length === 3 ? [left[0], left.slice(1)] : [left];
    const fits = this.#open.length < OPEN_MAX && markers.length <= this.#left;
    if (opens && fits && markers.every((marker) => marker in TAGS)) {
      for (const marker of markers) this.#begin(marker, TAGS[marker]);
    } else {
      this.#say(left);
    }
  }

  /** Return which open element the run closes: its equal, else one that takes a part of it, if it cannot open one. */
  #opened(run, opens) {
    const last = (fits) => this.#open.findLastIndex(({ marker }) => marker[0] === run[0] && fits(marker.length));
    const equal = last((length) => length === run.length);
    return equal >= 0 || (opens && run.length < 3) ? equal : last((length) => length < run.length);
  }

  #begin(marker, tag) {
    this.#element = this.#add(tag);
    this.#open.push({ marker, element: this.#element });
  }

  /** Close what is open, from the innermost to `index`; only that one may have been `marked` as closed. */
  #close(index, marked = false) {
    this.#show();
    while (this.#open.length > index) {
      const { marker, element } = this.#open.pop();
      this.#element = element.parentNode;
      if (marked && this.#open.length === index) return;
      element.prepend(marker);
      element.className = "unclosed";
    }
  }

  #escape(two, final) {
    if (two.length < 2 && !final) return 0;
    if (this.#verbatim) {
      if (two !== this.#verbatim) return this.#say(two[0]);
      this.#verbatim = "";
      return this.#say(two);
    }
    if (two in FORMULAS) {
      this.#verbatim = FORMULAS[two];
      return this.#say(two);
    }
    if (two === "\\\n") return 1; // a newline is one without it
    return ESCAPED.test(two) ? this.#say(two[1]) + 1 : this.#say(two[0]);
  }

  #break(rest, final) {
    const tag = BREAKS.find((tag) => rest.startsWith(tag));
    if (!tag && !final && mayBecome(BREAKS, rest)) return 0;
    this.#say(tag ? "\n" : "<");
    return tag?.length ?? 1;
  }

  #link(text, at, final) {
    const isImage = text[at] === "!";
    if (isImage && at + 1 === text.length && !final) return 0;
    if (this.#inLink || this.#left === 0 || (isImage && text[at + 1] !== "[")) return this.#say(text[at]);
    const link = readLink(text, isImage ? at + 2 : at + 1);
    if (link === undefined && !final) return 0;
    const href = link && safeUrl(link.url);
    if (!href) return this.#say(text[at]);
    this.#addLink(href, link.label || link.url, isImage ? "image" : "");
    return link.end - at;
  }

  #bareUrl(text, at, final, before) {
    if (this.#inLink || this.#left === 0 || /\w/.test(before)) return this.#say("h");
    const rest = text.slice(at, at + URL_MAX);
    const found = match(URL_HERE, rest, 0);
    const goesOn = found.length === rest.length || mayBecome(SCHEMES, rest);
    if (goesOn && !final && rest.length < URL_MAX) return 0;
    const url = withoutPunctuation(found);
    const href = found.length < URL_MAX && safeUrl(url);
    if (!href) return this.#say("h");
    this.#addLink(href, url, "");
    return url.length;
  }

  #addLink(href, label, className) {
    const inline = new Inline(pointTo(this.#add("a", className), href), true);
    inline.write(label);
    inline.end();
  }

  #add(tag, className) {
    this.#show();
    this.#left -= 1;
    return add(this.#element, tag, className);
  }

  #say(text) {
    this.#text += text;
    return text.length;
  }

  #show() {
    appendText(this.#element, this.#text);
    this.#text = "";
  }
}

/** Return a new element, the last thing in `parent`. */
export function add(parent, tag, className = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  parent.append(element);
  return element;
}

/** Let the text in `parent` grow. `text` never ends inside a surrogate pair. */
export function appendText(parent, text) {
  for (let at = 0; at < text.length; ) {
    let node = parent.lastChild;
    if (node?.nodeType !== Node.TEXT_NODE || node.length >= TEXT_NODE_MAX) {
      node = document.createTextNode("");
      parent.append(node);
    }
    let end = at + TEXT_NODE_MAX - node.length;
    if (isHalf(text, end)) end += 1;
    node.appendData(text.slice(at, end));
    at = end;
  }
}

/** Return whether `end` is inside a surrogate pair. */
export function isHalf(text, end) {
  return (text.charCodeAt(end - 1) & 0xfc00) === 0xd800;
}

/** Let a link lead somewhere that gets to know nothing of this page, and no hold on it. */
export function pointTo(link, href) {
  link.href = href;
  link.rel = "noopener noreferrer nofollow";
  link.target = "_blank";
  return link;
}

/** Return the address in full, null where it is a path, javascript: or the like. */
function safeUrl(url) {
  return /^(https?:\/\/|mailto:)/i.test(url) && URL.canParse(url) ? new URL(url).href : null;
}

/** Return `{label, url, end}` of the link whose text begins at `at`; null: none; undefined: it may become one. */
function readLink(text, at) {
  const bracket = closing("[]", text, at, LABEL_MAX);
  if (bracket === null) return null;
  if (bracket === undefined || bracket + 1 === text.length) return undefined;
  const end = text[bracket + 1] === "(" ? closing("()", text, bracket + 2, URL_MAX) : null;
  const [, url, title] = (end !== null && TARGET.exec(text.slice(bracket + 2, end).trim())) || [];
  if (url === undefined) return null;
  if (end === undefined) return undefined;
  if (title && !TITLE_END.test(title)) return null;
  return { label: text.slice(at, bracket), url: url.replace(/\\(?=[_()*~])/g, ""), end: end + 1 };
}

/** Return where what was opened before `at` closes; null: not on this line or too far; undefined: unknown yet. */
function closing(brackets, text, at, max) {
  const [open, close] = [brackets.charCodeAt(0), brackets.charCodeAt(1)];
  for (let depth = 0, index = at; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code === NEWLINE || index - at > max) return null;
    if (code === BACKSLASH) index++;
    else if (code === open) depth++;
    else if (code === close && depth-- === 0) return index;
  }
  return undefined;
}

/** Return an address without what ends the sentence or the parenthesis it is in. */
function withoutPunctuation(url) {
  let surplus = url.split(")").length - url.split("(").length;
  let end = url.length;
  while (/[.,;:!?'_~]/.test(url.charAt(end - 1)) || (url[end - 1] === ")" && surplus-- > 0)) end -= 1;
  return url.slice(0, end);
}

function mayOpen(run, before, after) {
  if (isSpace(after)) return false;
  if (!isWord(before)) return true;
  return run[0] !== "_" && !PUNCTUATION.test(after) && (run.length > 1 || !isWord(after)); // snake_case, 2*3*(4*5)
}

function mayClose(run, before, after) {
  return !isSpace(before) && (run[0] !== "_" || !isWord(after));
}

/** `character`: "" at the block's beginning or end. */
function isSpace(character) {
  return character.trim() === "";
}

/** Chinese and Japanese have no spaces: emphasis may begin or end anywhere. */
function isWord(character) {
  return LETTER.test(character) && !CJK.test(character);
}

function mayBecome(words, text) {
  return words.some((word) => word.startsWith(text));
}

function match(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0] ?? "";
}

function characterBefore(text, index) {
  return text.slice(isHalf(text, index - 1) ? index - 2 : Math.max(0, index - 1), index);
}
