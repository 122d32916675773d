/**
 * Colours in code blocks, by highlight.js, of which only the core and the languages that occur are ever loaded.
 *
 *     await highlight(codeElement, "python");
 *
 * highlight.js writes HTML, which is not used: nodes are made of the tokens it wrote that from. The text stays the same
 * to the character; unknown languages and very long blocks stay as they are.
 */

const CODE_MAX = 20_000; // what is longer would hold up the page
const LONG_LINE = /.{300}/; // on which some grammars take the square of its length, or worse
const DEPTH_MAX = 50; // of elements within each other: browsers lay them out by recursion
const VENDOR = "./vendor/highlight.js-11.12.0/es";
const LANGUAGES = {
  bash: "sh shell zsh console shellscript",
  cpp: "c h cc hpp c++ cxx",
  css: "",
  go: "golang",
  java: "",
  javascript: "js jsx mjs cjs node",
  json: "jsonc json5",
  python: "py python3",
  sql: "mysql postgresql sqlite",
  typescript: "ts tsx",
  xml: "html xhtml svg vue rss",
  yaml: "yml",
};
const NAMES = new Map(
  Object.entries(LANGUAGES).flatMap(([name, aliases]) => [name, ...aliases.split(" ")].map((alias) => [alias, name])),
);

/** @param {Element} code @param {string} language as the model wrote it behind the fence */
export async function highlight(code, language) {
  const name = NAMES.get(language.toLowerCase());
  const text = code.textContent;
  if (!name || text.length > CODE_MAX || LONG_LINE.test(text)) return;
  const [{ default: highlighter }, { default: grammar }] = await Promise.all([
    import(`${VENDOR}/core.min.js`),
    import(`${VENDOR}/languages/${name}.min.js`),
  ]);
  if (!highlighter.getLanguage(name)) highlighter.registerLanguage(name, grammar);
  const { _emitter: tokens } = highlighter.highlight(text, { language: name, ignoreIllegals: true });
  const coloured = addTokens(document.createDocumentFragment(), tokens.root);
  while (isSelected(code)) await nextSelection();
  if (coloured.textContent === text) code.replaceChildren(coloured);
}

/** New nodes would lose the reader's selection. */
function isSelected(code) {
  const selection = getSelection();
  return !selection.isCollapsed && selection.containsNode(code, true);
}

function nextSelection() {
  return new Promise((change) => document.addEventListener("selectionchange", change, { once: true }));
}

/** Add a token tree's nodes: strings, and `{scope, children}`. What is too deep is left out, and so not shown at all. */
function addTokens(parent, { children }, depth = 0) {
  for (const child of children) {
    if (typeof child === "string") parent.append(child);
    else if (depth < DEPTH_MAX) addTokens(child.scope ? addSpan(parent, child.scope) : parent, child, depth + 1);
  }
  return parent;
}

function addSpan(parent, scope) {
  const span = document.createElement("span");
  span.className = `hljs-${scope.split(/[.:]/)[0]}`;
  parent.append(span);
  return span;
}
