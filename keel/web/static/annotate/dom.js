// Elements without markup: text goes in as text, never as HTML. Words that change with the language name their key.
import { t } from "./i18n.js";

/**
 * An element. `on...` attributes are listeners; `say` is a key of the catalogue (or [key, values]) for its text, `sayLabel` for its
 * aria-label, `sayTitle` for its title. null and false leave an attribute out.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "say") say(element, value);
    else if (name === "sayLabel") say(element, value, "label");
    else if (name === "sayTitle") say(element, value, "title");
    else if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const said = new WeakMap(); // element -> {text|label|title: [key, values]}

/** Give an element words of the catalogue; `translate` puts them anew when the language changes. */
export function say(element, what, where = "text") {
  const [key, values] = Array.isArray(what) ? what : [what, {}];
  said.set(element, { ...said.get(element), [where]: [key, values] });
  element.setAttribute("data-say", "");
  put(element, where, key, values);
}

/** Put the words of the present language into all that `say` was called for, below `root`. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-say]")) {
    for (const [where, [key, values]] of Object.entries(said.get(element) ?? {})) put(element, where, key, values);
  }
}

function put(element, where, key, values) {
  const words = t(key, values);
  if (where === "text") element.textContent = words;
  else element.setAttribute(where === "label" ? "aria-label" : "title", words);
}

/** The letter that stands for a place on the screen. */
export const letter = (place) => String.fromCharCode(65 + place);

/** "Cannot judge": there for every kind of item. */
export function cannotButton(cap, ready, act) {
  return h(
    "button",
    { type: "button", class: "choice cannot", onclick: () => ready() && act() },
    h("span", { say: "cannot" }),
    cap("cannot"),
  );
}
