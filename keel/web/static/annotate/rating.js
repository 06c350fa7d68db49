// One answer, a score in each dimension. Digits score the present dimension and go on to the next.
import { cannotButton, h } from "./dom.js";

/** The guideline's dimensions and weights, where a campaign names none. */
export const DIMENSIONS = [
  { name: "accuracy", weight: 40 },
  { name: "completeness", weight: 25 },
  { name: "relevance", weight: 20 },
  { name: "fluency", weight: 15 },
];
const valuesOf = ({ low = 1, high = 5 }) => Array.from({ length: high - low + 1 }, (_, i) => low + i);

export class Rating {
  #scores = {};
  #now = 0;

  constructor({ item, page, content, cap, send, changed, ready }) {
    Object.assign(this, { send, changed });
    this.dimensions = page.dimensions?.length ? page.dimensions : DIMENSIONS;
    this.answers = item.answers.map((_, place) => content.answer(place)); // the first is scored, what follows is to compare with
    this.rows = this.dimensions.map((dimension, i) => this.#row(dimension, i));
    this.panel = h(
      "div",
      { class: "rating" },
      item.answers.length > 1 && h("p", { class: "hint", say: "rating_first" }),
      h("div", { class: "dimensions" }, this.rows),
      h(
        "div",
        { class: "rest" },
        cannotButton(cap, ready, () => this.#cannot()),
      ),
    );
    this.#draw();
  }

  actions() {
    const values = valuesOf(this.dimensions[this.#now]).slice(0, 9);
    const digits = Object.fromEntries(values.map((value, i) => [String(i + 1), () => this.#score(this.#now, value, true)]));
    return { ...digits, back: () => this.#back(), send: () => this.send(), cannot: () => this.#cannot() };
  }

  answer() {
    const whole = this.dimensions.every(({ name }) => name in this.#scores);
    return whole ? { type: "scores", candidate: 0, scores: { ...this.#scores } } : null;
  }

  missing = () => "rating_missing";

  restore(answer) {
    this.#scores = { ...(answer.scores ?? {}) };
    this.#draw();
    this.changed();
  }

  #cannot() {
    this.send({ type: "choice", chosen: "cannot", strength: null });
  }

  #row(dimension, index) {
    const { name, weight } = dimension;
    const group = `rate-${index}-${Math.random().toString(36).slice(2)}`; // the next item is drawn while this one is there
    const radio = (value) =>
      h(
        "label",
        { class: "value" },
        h("input", { type: "radio", name: group, value, onchange: () => this.#score(index, value, false), onfocus: () => this.#go(index) }),
        h("span", { text: String(value) }),
      );
    const words = h("span", DIMENSIONS.some((d) => d.name === name) ? { say: `dimension_${name}` } : { text: name });
    const share = weight === undefined ? null : h("small", { text: `${weight} %` });
    return h(
      "fieldset",
      { class: "dimension", "data-name": name },
      h("legend", {}, words, share),
      h("div", { class: "values" }, valuesOf(dimension).map(radio)),
    );
  }

  #score(index, value, onward) {
    this.#scores[this.dimensions[index].name] = value;
    const open = this.dimensions.findIndex(({ name }) => !(name in this.#scores));
    if (onward) this.#now = open < 0 ? Math.min(index + 1, this.rows.length - 1) : open;
    this.#draw();
    this.changed();
  }

  #back() {
    const scored = this.dimensions.map(({ name }) => name).filter((name) => name in this.#scores);
    const last = scored.at(-1);
    if (last === undefined) return;
    delete this.#scores[last];
    this.#now = this.dimensions.findIndex(({ name }) => name === last);
    this.#draw();
    this.changed();
  }

  #go(index) {
    this.#now = index;
    this.#draw();
  }

  #draw() {
    this.rows.forEach((row, i) => {
      row.classList.toggle("now", i === this.#now);
      const score = this.#scores[this.dimensions[i].name];
      for (const input of row.querySelectorAll("input")) input.checked = Number(input.value) === score;
    });
  }
}
