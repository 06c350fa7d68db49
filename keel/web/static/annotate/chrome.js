// What stands around the items: the top line, messages, and what is shown when there is no item.
import { h, say, translate } from "./dom.js";
import { language, otherLanguage, setLanguage } from "./i18n.js";
import { cap } from "./keys.js";
import { nextTheme, theme } from "./theme.js";

const LATER_MS = 60000; // look for new items again
const TOAST_MS = 6000;
const QUIET = new Set(["order_now", "cursor_at", "marked"]); // what can be seen already: told to screen readers alone

export class Chrome {
  #toast = 0;
  #shown = "";

  /** `does`: {undo, guideline, help, refused, look, keepOld, takeBack} are called for buttons. */
  constructor(keys, does) {
    Object.assign(this, { keys, does });
    const button = (name, act) =>
      h(
        "button",
        { type: "button", class: `tool ${name}`, onclick: act },
        h("span", { say: name }),
        h("kbd", { "data-action": name, "aria-hidden": "true", text: cap(keys.keyFor(name)) }),
      );
    this.undo = button("undo", does.undo);
    this.state = h("span", { class: "badge", hidden: true });
    this.count = h("span", { class: "count" });
    this.net = h("button", { type: "button", class: "net", onclick: does.refused });
    this.language = h("button", { type: "button", class: "tool", onclick: () => this.#switchLanguage() });
    this.theme = h("button", { type: "button", class: "tool theme", onclick: () => this.#switchTheme() });
    const place = (id, ...what) => document.getElementById(id).replaceChildren(...what);
    place("progress", this.state, this.count, this.net);
    place("tools", this.undo, button("guideline", does.guideline), button("help", does.help), this.language, this.theme);
    say(document.querySelector(".skip"), "skip");
    say(document.getElementById("marking-keys"), "marking_keys");
    this.#labels();
    addEventListener("keel-keys", () => this.caps());
  }

  /** A message that is seen and read out; values fill the catalogue's text. */
  announce = (key, values) => {
    const region = document.getElementById(QUIET.has(key) ? "quiet" : "toast");
    region.replaceChildren(h("span", { say: [key, values ?? {}] }));
    if (QUIET.has(key)) return;
    clearTimeout(this.#toast);
    this.#toast = setTimeout(() => region.replaceChildren(), TOAST_MS);
  };

  /** The time gate: how long it is still closed. */
  gate = (left, visible) => {
    const element = document.getElementById("gate");
    const shut = visible && left > 0;
    element.hidden = !shut;
    if (shut) say(element, ["gate_left", { seconds: Math.ceil(left / 1000) }]);
    document.body.dataset.gate = left > 0 ? (visible ? "waits" : "shut") : "open";
  };

  update({ counts, reachable, answered, state, canUndo, correcting }) {
    this.undo.disabled = !canUndo;
    say(this.count, ["answered_n", { n: answered }]);
    this.state.hidden = !["training", "qualification"].includes(state);
    if (!this.state.hidden) say(this.state, `state_${state}`);
    const net = counts.refused
      ? ["net_refused", { n: counts.refused }]
      : !reachable
        ? ["net_off", { n: counts.waiting }]
        : counts.waiting
          ? ["net_sending", { n: counts.waiting }]
          : ["net_saved", {}];
    this.net.dataset.net = net[0];
    this.net.disabled = !counts.refused;
    say(this.net, net);
    this.#correcting(correcting);
  }

  /** In the place of an item: `key` of the catalogue; "again" looks for items now and every minute. */
  empty(stage, key, { again = false, code = "", url = "", values = {} } = {}) {
    const id = `${key} ${code}`;
    if (this.#shown === id && stage.querySelector(".empty")) return;
    this.#shown = id;
    const link =
      url && /^https:\/\//.test(url) ? h("a", { href: url, class: "button primary", rel: "noopener", say: "to_platform" }) : null;
    const box = code ? h("p", { class: "code" }, h("span", { say: "completion_code" }), h("output", { text: code, tabindex: "0" })) : null;
    const look = again ? h("button", { type: "button", class: "primary", say: "look_again", onclick: this.does.look }) : null;
    stage.replaceChildren(
      h(
        "section",
        { class: `empty card ${key}`, role: "status" },
        h("h2", { say: [key, values] }),
        h("p", { say: `${key}_more` }),
        box,
        link,
        look,
      ),
    );
    clearTimeout(this.later);
    if (again) this.later = setTimeout(() => !document.hidden && this.does.look(), LATER_MS);
  }

  /** A line that stays: the session is over, or the browser keeps nothing. */
  banner(key, ...extra) {
    document.getElementById("banner").replaceChildren(...(key ? [h("p", { role: "alert" }, h("span", { say: key }), " ", ...extra)] : []));
  }

  #correcting(on) {
    const element = document.getElementById("correcting");
    if (on === !element.hidden) return;
    element.hidden = !on;
    element.replaceChildren(...(on ? this.#choices() : []));
  }

  /** What can be done with an answer that is shown again, beside giving another. */
  #choices() {
    const key = h("kbd", { "data-action": "take_back", "aria-hidden": "true", text: cap(this.keys.keyFor("take_back")) });
    const back = { type: "button", class: "small take-back", sayLabel: "take_back_label", onclick: this.does.takeBack };
    return [
      h("span", { say: "correcting" }),
      h("button", { type: "button", class: "small", say: "keep_old", onclick: this.does.keepOld }),
      h("button", back, h("span", { say: "take_back" }), key),
    ];
  }

  async #switchLanguage() {
    await setLanguage(otherLanguage(), true);
    this.#labels();
    translate(document);
  }

  #switchTheme() {
    nextTheme();
    this.#labels();
  }

  #labels() {
    this.language.textContent = language() === "zh" ? "English" : "中文";
    this.language.lang = otherLanguage();
    this.theme.textContent = { auto: "◐", light: "☀", dark: "☾" }[theme()];
    for (const where of ["label", "title"]) say(this.theme, `theme_${theme()}`, where);
  }

  /** Write the present keys on all that shows one. */
  caps() {
    for (const element of document.querySelectorAll("kbd[data-action]"))
      element.textContent = cap(this.keys.keyFor(element.dataset.action));
  }
}
