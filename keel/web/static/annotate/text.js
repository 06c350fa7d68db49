// Texts of strangers and models on the page. Markdown through marked, without raw HTML, then through DOMPurify; mathematics as MathML.
// What the text says in HTML is shown, never done.
import { Marked } from "../vendored/marked.js";
import { h } from "./dom.js";
import { formula } from "./tex.js";

const LONGEST_MARKDOWN = 40000; // characters; longer texts are shown as they are
const TAGS = [
  "a",
  "b",
  "blockquote",
  "br",
  "code",
  "del",
  "em",
  "h1",
  "h2",
  "h3",
  "h4",
  "h5",
  "h6",
  "hr",
  "i",
  "li",
  "ol",
  "p",
  "pre",
  "s",
  "span",
  "strong",
  "sub",
  "sup",
  "table",
  "tbody",
  "td",
  "th",
  "thead",
  "tr",
  "ul",
];
const ATTRIBUTES = ["href", "title", "start", "align", "data-tex", "data-display"];
const CLEAN = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ATTRIBUTES,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ATTRIBUTES.filter((name) => name !== "href"),
  RETURN_DOM_FRAGMENT: true,
};
// Marks that turn the direction of what follows, or are not to be seen: shown by their number.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

const escape = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.codePointAt(0)};`);
const code = (mark) => `U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

const maths = (name, start, rule, display) => ({
  name,
  level: "inline",
  start: (source) => (source.indexOf(start) === -1 ? undefined : source.indexOf(start)),
  tokenizer(source) {
    const found = rule.exec(source);
    return found ? { type: name, raw: found[0], tex: found[1] } : undefined;
  },
  renderer: (token) => `<span data-tex="${escape(token.tex)}"${display ? ' data-display="1"' : ""}></span>`,
});

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text),
    image: ({ text, href }) => `<code>${escape(`[${text || href.slice(0, 80)}]`)}</code>`, // nothing is fetched for a text
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
  extensions: [
    maths("maths-display", "$$", /^\$\$([^$]{1,2000}?)\$\$/, true),
    maths("maths-bracket", "\\[", /^\\\[([\s\S]{1,2000}?)\\\]/, true),
    maths("maths-paren", "\\(", /^\\\(([\s\S]{1,2000}?)\\\)/, false),
    maths("maths-dollar", "$", /^\$(?!\s)(?!\d[\w\s,.\-/]*\$)((?:[^$\n\\]|\\.){1,500}?)(?<!\s)\$(?!\d)/, false),
  ],
});

/** A text as Markdown in an element of its own. */
export function markdown(text) {
  if (text.length > LONGEST_MARKDOWN) return plain(text);
  const host = h("div", { class: "text", dir: "auto" });
  try {
    const html = marked.parse(text.replace(HIDDEN, (mark) => `[${code(mark)}]`));
    host.append(DOMPurify.sanitize(html, CLEAN));
  } catch {
    return plain(text); // what marked cannot read is shown as it is
  }
  for (const link of host.querySelectorAll("a")) outward(link);
  for (const place of host.querySelectorAll("[data-tex]"))
    place.replaceWith(formula(place.dataset.tex, place.hasAttribute("data-display")));
  for (const table of host.querySelectorAll("table")) {
    const box = h("div", { class: "scroll", tabindex: "0", role: "region", sayLabel: "table" });
    table.replaceWith(box);
    box.append(table);
  }
  for (const block of host.querySelectorAll("pre")) block.tabIndex = 0;
  return host;
}

/** A text exactly as it is, for marking: the text nodes together are the text. Hidden marks get a box with their number around them. */
export function plain(text) {
  return h("div", { class: "text plain", dir: "auto" }, pieces(text));
}

/** Nodes whose text together is `text`. */
export function pieces(text) {
  const nodes = [];
  let at = 0;
  for (const { 0: mark, index } of text.matchAll(HIDDEN)) {
    if (index > at) nodes.push(text.slice(at, index));
    nodes.push(h("bdi", { class: "hidden-mark", "data-code": code(mark) }, mark));
    at = index + mark.length;
  }
  if (at < text.length) nodes.push(text.slice(at));
  return nodes;
}

/** Links never leave the page, and never tell where they were read. */
function outward(link) {
  if (!link.hasAttribute("href")) return;
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
  link.referrerPolicy = "no-referrer";
  if (link.textContent.trim() !== link.getAttribute("href")) link.title = link.getAttribute("href");
}
