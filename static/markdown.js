/**
 * Markdown as DOM nodes, while it is being written. What is inside the blocks, and what is promised: inline.js.
 *
 *     const markdown = new Markdown(element, { texts, onCode });
 *     markdown.write("- some **bo");
 *     markdown.write("ld** words");
 *     markdown.end();
 *
 * `texts` has the labels `code`, `table` and `copy`; the buttons `.copy` are for the page to serve. `onCode(code,
 * language)` gets the <code> of every fence with a language once it is complete.
 *
 * A line's beginning waits until it tells what the line is, a table's header until the line under it proves it one.
 * Unlike CommonMark: an item's content needs two columns only, a fence ends with its marker alone; indented code and
 * underlined headings are unknown.
 *
 * Why not streaming-markdown 0.2.15, less than half of this size, whose renderer can be replaced? Its Chinese bold is right,
 * and pieces hardly ever make a difference. But it is wrong with what models write daily, and loses characters, which
 * no renderer can bring back; the tests here (ELEMENTS in tests/browser/test_rendering.py) have each of these:
 * - words: snake_case_name and 2*3*4 turn italic, "$PATH and $HOME" into a formula; [1] and list[0] lose their brackets;
 * - what stays open: f(**kwargs) loses its stars, and of 300 random texts 28 lose words (test_no_character_is_lost);
 * - code: a fence after CRLF never ends, nor does one in a quote, which takes the next paragraph in; ~~~ is unknown;
 *   one in an item whose code is not indented ends early, and the rest of the answer becomes code;
 * - lists: "2." after a nested list begins a list within the first one; a line "1990. Then" begins a list;
 * - links: an address ends at its first ")", has the title in it, or the full stop; none is found after Chinese;
 * - tables: "|x| is a norm" is one; columns are not aligned.
 * It has one maintainer, and its last release is of March 2026: to mend all this would be a fork.
 */
import { Inline, add, appendText } from "./inline.js";

/** No more of a line, or of a table's first two, is held back. */
const HELD_MAX = 200;
const TABLE_HELD_MAX = 500;
/** Browsers lay out blocks within blocks by recursion. */
const DEPTH_MAX = 12;
/** A table is laid out anew with every word in it: what is wider stays text, what is longer goes on in another one. */
const COLUMNS_MAX = 250;
const ROWS_MAX = 500;

const RULE = /^([-*_])[ \t]*(\1[ \t]*)*$/;
const ITEM = /^([-*+]|(\d{1,9})[.)])(?=[ \t]|$)/;
const ITEM_BEGUN = /^(\+|\d{1,9}[.)]?)$/;
const LEAF_BEGUN = /^(#{1,6}[ \t]*|`{1,2}|`{3,}[^`]*|~{1,2}|~{3,}.*|\$\$?|\\\[?)$/;
const HEADING = /^(#{1,6})[ \t]+/;
const FENCE = /^(`{3,}(?=[^`]*$)|~{3,}|(?:\$\$|\\\[)(?=[ \t]*$))[ \t]*([\w+#.-]*)/;
const FORMULA_ENDS = { $$: "$$", "\\[": "\\]" };
const TASK = /^\[([ xX])\][ \t]/;
const TASK_BEGUN = /^\[([ xX]\]?)?$/;
const DELIMITERS = /^[ \t>]*\|?([ \t]*:?-+:?[ \t]*\|)*[ \t]*(:?-+:?)?\s*$/;
const DELIMITERS_BEGUN = /^[ \t>:|-]*$/;

export class Markdown {
  #root;
  #texts;
  #onCode;
  #containers = []; // open quotes {element} and lists {element, item, column, ordered}, outermost first
  #leaf = null; // the block that the line's text goes to
  #line = ""; // the line so far, while it does not tell what it is, else null
  #outline = []; // levels of the headings above the next one

  constructor(root, { texts, onCode }) {
    this.#root = root;
    this.#texts = texts;
    this.#onCode = onCode;
  }

  /** `text` never ends inside a surrogate pair. */
  write(text) {
    text = text.replaceAll("\r", "");
    for (let at = 0; at < text.length; ) {
      if (this.#line === null) {
        const newline = text.indexOf("\n", at);
        const end = newline < 0 ? text.length : newline;
        this.#leaf.write(text.slice(at, end));
        if (newline >= 0) this.#endLine();
        at = end + 1;
      } else {
        const character = String.fromCodePoint(text.codePointAt(at));
        at += character.length;
        this.#line += character;
        this.#decide(false);
      }
    }
  }

  end() {
    while (this.#line) this.#decide(true);
    this.#endLeaf();
  }

  /** Do what the line asks for, if it tells. */
  #decide(final) {
    const [first, second] = this.#line.split(/\n(.*)/s);
    const complete = final || second !== undefined;
    if (this.#leaf instanceof Code && this.#continueCode(new Line(first), complete)) return;
    const line = new Line(first);
    const place = this.#place(line, complete);
    if (place === null) return;
    const { rest, column } = line;
    if (place.isRule || (complete && rest === "")) {
      this.#enter(place);
      if (place.isRule) add(this.#parent, "hr");
      this.#line = "";
    } else if (rest[0] === "|") {
      this.#decideTable(place, rest, second, final);
    } else if (complete || rest.length > HELD_MAX || !LEAF_BEGUN.test(rest)) {
      this.#begin(place, rest, column, complete);
    }
  }

  // -- quotes and lists -----------------------------------------------------------------------------------------------

  /** Return how many containers the line is in (`kept`), and those it begins (`opened`); null: unknown yet. */
  #place(line, complete) {
    const waits = !complete && line.rest.length <= HELD_MAX;
    const opened = [];
    let kept = 0;
    for (; kept < this.#containers.length; kept++) {
      line.skip();
      if (line.ended && waits) return null;
      const { column } = this.#containers[kept];
      if (column === undefined ? !line.quote() : !line.ended && line.column < column + 2) break;
    }
    for (;;) {
      line.skip();
      if (line.ended && waits) return null;
      if (line.ended || kept + opened.length >= DEPTH_MAX) return { kept, opened };
      const isRule = RULE.test(line.rest);
      if (!complete && (isRule || ITEM_BEGUN.test(line.rest))) return waits ? null : { kept, opened };
      if (isRule && line.rest.replace(/\s/g, "").length >= 3) return { kept, opened, isRule };
      const container = line.quote() ? {} : this.#item(line, kept, opened, complete);
      if (container === null) return { kept, opened };
      opened.push(container);
    }
  }

  /** Return the item that begins here, null if none does. `continues`: in a list that is open. */
  #item(line, kept, opened, complete) {
    const { rest, column } = line;
    const [marker, , number] = ITEM.exec(rest) ?? [];
    if (marker === undefined) return null;
    const ordered = number !== undefined;
    const list = this.#containers[kept];
    const continues = opened.length === 0 && list?.column !== undefined && list.ordered === ordered;
    const interrupts = this.#leaf instanceof Paragraph && opened.length === 0 && !continues;
    const isEmpty = complete && rest.slice(marker.length).trim() === "";
    if (interrupts && (isEmpty || (ordered && number !== "1"))) return null; // "It was in\n1990. Then"
    line.pass(marker.length);
    return { column, ordered, number, continues };
  }

  /** Close what the line is not in, open what it begins. */
  #enter({ kept, opened }) {
    this.#endLeaf();
    this.#containers.length = opened[0]?.continues ? kept + 1 : kept;
    for (const { column, ordered, number, continues } of opened) {
      if (!continues) {
        const element = add(this.#parent, column === undefined ? "blockquote" : ordered ? "ol" : "ul");
        if (ordered && number !== "1") element.start = number;
        this.#containers.push({ element, ordered });
      }
      const container = this.#containers.at(-1);
      if (column !== undefined) Object.assign(container, { column, item: add(container.element, "li") });
    }
  }

  get #parent() {
    const { item, element = this.#root } = this.#containers.at(-1) ?? {};
    return item ?? element;
  }

  // -- what is in them ------------------------------------------------------------------------------------------------

  #begin(place, rest, column, complete) {
    const heading = HEADING.exec(rest);
    const fence = complete && FENCE.exec(rest);
    if (!heading && !fence) return this.#beginText(place, rest, complete);
    this.#enter(place);
    if (fence) {
      this.#leaf = new Code(this.#parent, fence[1], fence[2], column, this.#texts);
      this.#line = "";
    } else {
      this.#leaf = new Heading(this.#parent, heading[1].length, this.#outline);
      this.#continue(rest.slice(heading[0].length), complete);
    }
  }

  #beginText(place, rest, complete) {
    const { opened } = place;
    if (this.#leaf instanceof Paragraph && opened.length === 0) return this.#continue(`\n${rest}`, complete);
    const isItem = opened.at(-1)?.column !== undefined;
    if (isItem && !complete && TASK_BEGUN.test(rest)) return;
    const [box, mark] = (isItem && TASK.exec(rest)) || [""];
    this.#enter(place);
    const element = isItem ? this.#parent : add(this.#parent, "p");
    if (mark) element.className = "task";
    if (mark) appendText(element, mark === " " ? "☐ " : "☑ ");
    this.#leaf = new Paragraph(element);
    this.#continue(rest.slice(box.length), complete);
  }

  /** `second`: what there is of the line under the `first`. */
  #decideTable(place, first, second, final) {
    const isRow = place.kept === this.#containers.length && place.opened.length === 0;
    if (this.#leaf instanceof Table && isRow) return this.#continue(first, second !== undefined);
    const complete = final || second?.endsWith("\n");
    const under = second ?? "";
    if (!complete && first.length + under.length <= TABLE_HELD_MAX && DELIMITERS_BEGUN.test(under)) return;
    if (complete && under.includes("-") && DELIMITERS.test(under)) {
      this.#enter(place);
      this.#leaf = new Table(this.#parent, first, under, this.#texts);
      this.#line = "";
    } else {
      this.#beginText(place, first, final || second !== undefined);
      this.write(under);
    }
  }

  /** Return whether the line is in the open code, or may be. */
  #continueCode(line, complete) {
    const waits = !complete && line.rest.length <= HELD_MAX;
    for (const { column } of this.#containers) {
      if (column !== undefined) continue; // not all models indent code as its item
      line.skip();
      if (line.ended && waits) return true;
      if (line.quote()) continue;
      this.#endLeaf();
      return false;
    }
    line.skip(this.#leaf.column);
    const { rest } = line;
    const ends = this.#leaf.ends(rest, complete);
    if (ends && waits) return true;
    if (ends && complete) {
      this.#endLeaf();
      this.#line = "";
    } else {
      this.#leaf.beginLine();
      this.#continue(rest, complete);
    }
    return true;
  }

  #continue(text, complete) {
    this.#leaf.write(text);
    this.#line = null;
    if (complete) this.#endLine();
  }

  #endLine() {
    if (this.#leaf.endLine?.()) this.#endLeaf();
    this.#line = "";
  }

  #endLeaf() {
    const leaf = this.#leaf;
    this.#leaf = null;
    leaf?.end();
    if (leaf?.language) this.#onCode(leaf.element, leaf.language);
  }
}

/** The beginning of a line, read from the left. A tab reaches to the next multiple of four columns. */
class Line {
  column = 0;

  constructor(rest) {
    this.rest = rest;
  }

  get ended() {
    return this.rest === "";
  }

  /** Pass over white space, at most up to `column`. */
  skip(column = Infinity) {
    while (this.column < column && /^[ \t]/.test(this.rest)) {
      this.column += this.rest[0] === "\t" ? 4 - (this.column % 4) : 1;
      this.rest = this.rest.slice(1);
    }
  }

  pass(length) {
    this.rest = this.rest.slice(length);
    this.column += length;
  }

  /** Pass over a quote's marker; return whether there was one. */
  quote() {
    const [marker = ""] = /^> ?/.exec(this.rest) ?? [];
    this.pass(marker.length);
    return marker !== "";
  }
}

class Paragraph extends Inline {}

class Heading extends Inline {
  /** Tags make an outline under the page's h1, whatever levels a model skips. Looks go by class. */
  constructor(parent, level, outline) {
    while (outline.at(-1) >= level) outline.pop();
    outline.push(level);
    super(add(parent, `h${Math.min(outline.length + 1, 6)}`, `level-${level}`));
  }

  endLine() {
    return true; // it is over
  }
}

/** Fenced code. A formula too, for there is nothing here to draw it. */
class Code {
  #lines = 0;
  #marker;

  constructor(parent, marker, info, column, texts) {
    this.#marker = marker;
    this.column = column;
    this.language = marker in FORMULA_ENDS ? "latex" : info;
    const box = add(parent, "div", "code");
    if (this.language) box.dataset.language = this.language;
    const button = add(box, "button", "copy"); // without text: who selects an answer does not want it
    button.type = "button";
    button.ariaLabel = button.title = texts.copy;
    this.element = add(scroller(add(box, "pre"), texts.code), "code");
  }

  /** Return whether the line is the end; while it is not complete, whether it may become it. */
  ends(line, complete) {
    const text = line.trim();
    const end = FORMULA_ENDS[this.#marker];
    if (end) return complete ? text === end : end.startsWith(text);
    const isRun = text.replaceAll(this.#marker[0], "") === "";
    return isRun && (!complete || text.length >= this.#marker.length);
  }

  /** A newline goes with the line behind it: there is none before the end. */
  beginLine() {
    if (this.#lines++ > 0) this.write("\n");
  }

  write(text) {
    appendText(this.element, text);
  }

  end() {}
}

/** A table, row by row and cell by cell. */
class Table {
  #table;
  #aligns;
  #part;
  #row = null;
  #cell = null;
  #index = -1; // the cell's, -1 before the first
  #held = ""; // a backslash, until it is known whether it is before a |

  constructor(parent, header, delimiters, texts) {
    this.#table = add(scroller(add(parent, "div", "table"), texts.table), "table");
    this.#aligns = delimiters.match(/:?-+:?/g).map(alignment);
    this.#part = add(this.#table, "thead");
    this.write(header);
    this.endLine();
    this.#part = null;
  }

  write(text) {
    this.#part ??= add(this.#table, "tbody");
    this.#row ??= this.#addRow();
    const pieces = (this.#held + text).match(/\\\||\||\\|[^|\\]+/g) ?? [];
    this.#held = pieces.at(-1) === "\\" ? pieces.pop() : "";
    for (const piece of pieces) {
      if (piece === "|" && this.#index < COLUMNS_MAX) this.#endCell();
      else this.#writeCell(piece === "\\|" ? "|" : piece);
    }
  }

  endLine() {
    this.#writeCell(this.#held);
    this.#held = "";
    this.#cell?.end();
    this.#row = this.#cell = null;
    this.#index = -1;
  }

  end() {
    if (this.#row) this.endLine();
  }

  #writeCell(text) {
    const words = this.#cell ? text : text.trimStart();
    if (words === "") return;
    this.#cell ??= this.#addCell();
    this.#cell.write(words);
  }

  #endCell() {
    if (this.#index >= 0) (this.#cell ?? this.#addCell()).end();
    this.#cell = null;
    this.#index += 1;
  }

  #addRow() {
    if (this.#part.childElementCount === ROWS_MAX) {
      this.#table = add(this.#table.parentNode, "table");
      this.#part = add(this.#table, "tbody");
    }
    return add(this.#part, "tr");
  }

  #addCell() {
    return new Inline(add(this.#row, this.#part.tagName === "THEAD" ? "th" : "td", this.#aligns[this.#index]));
  }
}

function alignment(dashes) {
  if (dashes.endsWith("-")) return "";
  return dashes[0] === ":" ? "center" : "right";
}

/** Let a box that may be wider than the page be scrolled by keyboard too. */
function scroller(element, label) {
  element.tabIndex = 0;
  element.role = "group";
  element.ariaLabel = label;
  return element;
}
