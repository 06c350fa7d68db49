// Hot keys: one table of actions and keys that the person may change. Asleep wherever a key means something else.
const STORED = "keel-keys";

export const DEFAULTS = Object.freeze({
  1: "1",
  2: "2",
  3: "3",
  4: "4",
  5: "5",
  6: "6",
  7: "7",
  8: "8",
  9: "9",
  both_bad: "b",
  cannot: "x",
  tie: "t",
  agree: "a",
  back: "Backspace",
  nothing: "n",
  send: "Enter",
  reason: "r",
  undo: "u",
  take_back: "z",
  guideline: "g",
  help: "?",
  zoom_in: "+",
  zoom_out: "-",
  zoom_reset: "0",
});

const NOT_TEXT = new Set(["button", "checkbox", "color", "file", "image", "radio", "range", "reset", "submit"]);
const NATIVE = new Set(["Enter", " "]); // press the control that has the focus

/** The name of the key of an event: "b", "?", "Enter". On keyboards of other scripts the letter that stands there on a Latin one. */
export function keyOf(event) {
  const latin = /^Key([A-Z])$/.exec(event.code ?? "");
  if (event.key.length === 1 && event.key.codePointAt(0) > 127 && latin) return latin[1].toLowerCase();
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

/** Does the key go to a field that takes text? */
export function takesText(target) {
  if (!(target instanceof Element)) return false;
  if (target.closest("textarea, select, [contenteditable]:not([contenteditable=false])")) return true;
  return target instanceof HTMLInputElement && !NOT_TEXT.has(target.type);
}

/** Why the hot keys sleep for this event; empty when they do not. */
export function asleep(event) {
  if (event.defaultPrevented) return "handled";
  if (event.isComposing || event.keyCode === 229 || event.key === "Process") return "composing";
  if (event.ctrlKey || event.metaKey || event.altKey) return "modified";
  if (event.repeat) return "repeat";
  if (takesText(event.target)) return "text";
  if (document.querySelector("dialog[open]")) return "dialog";
  if (NATIVE.has(event.key) && event.target instanceof Element && event.target.closest("button, a[href], summary, input")) return "control";
  return "";
}

export class Keys {
  #actions = () => ({});
  #map = { ...DEFAULTS, ...stored() };
  version = 0; // of the table: what was drawn with an older one shows wrong keys

  constructor() {
    addEventListener("keydown", (event) => this.#press(event));
  }

  /** `actions()` -> {action: function(event)} that can be asked for now. */
  listen(actions) {
    this.#actions = actions;
  }

  keyFor(action) {
    return this.#map[action] ?? "";
  }

  /** Give an action another key. Returns the action that has that key already, and changes nothing then. */
  change(action, key) {
    const other = Object.keys(this.#map).find((name) => name !== action && this.#map[name] === key);
    if (other) return other;
    this.#map[action] = key;
    keep(this.#map);
    this.version++;
    dispatchEvent(new CustomEvent("keel-keys"));
    return "";
  }

  reset() {
    this.#map = { ...DEFAULTS };
    keep({});
    this.version++;
    dispatchEvent(new CustomEvent("keel-keys"));
  }

  #press(event) {
    if (asleep(event)) return;
    const key = keyOf(event);
    const actions = this.#actions();
    const name = Object.keys(actions).find((action) => this.#map[action] === key);
    if (!name) return;
    event.preventDefault();
    actions[name](event);
  }
}

/** What stands on a key. */
export const cap = (key) => ({ Enter: "⏎", Backspace: "⌫", " ": "␣" })[key] ?? (key.length === 1 ? key.toUpperCase() : key);

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(STORED) ?? "{}");
    return Object.fromEntries(Object.entries(found).filter(([name, key]) => name in DEFAULTS && typeof key === "string"));
  } catch {
    return {}; // storage is switched off or holds something else
  }
}

function keep(map) {
  try {
    localStorage.setItem(STORED, JSON.stringify(map));
  } catch {
    // the change lasts as long as the page
  }
}
