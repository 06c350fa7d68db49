// K answers from best to worst, ties in one box. Nothing is ranked until the person ranks it: an untouched order cannot be sent.
// By keys: the answers' numbers from best to worst, T ties the last with the one before. By drag: chips between boxes.
import { cannotButton, h, letter } from "./dom.js";
import { Drag } from "./drag.js";

/** Pure: the buckets without a place; empty ones vanish. */
export const without = (buckets, place) => buckets.map((bucket) => bucket.filter((p) => p !== place)).filter((bucket) => bucket.length);

/** Pure: `place` into the bucket with `mate`, or alone before the bucket `before` holds (null: at the end). */
export function moved(buckets, place, { mate = null, before = null }) {
  if (mate === place || before === place) return buckets;
  const rest = without(buckets, place);
  if (mate !== null) return rest.map((bucket) => (bucket.includes(mate) ? [...bucket, place] : bucket));
  const at = before === null ? rest.length : rest.findIndex((bucket) => bucket.includes(before));
  return [...rest.slice(0, at), [place], ...rest.slice(at)];
}

export class Ranking {
  #buckets = [];
  #last = null;

  constructor({ item, content, cap, announce, send, changed, ready }) {
    Object.assign(this, { cap, announce, send, changed, count: item.answers.length });
    this.answers = item.answers.map((_, place) => content.answer(place));
    this.chips = this.answers.map((_, place) => this.#chip(place));
    this.best = h("div", { class: "buckets", role: "group", sayLabel: "order" });
    this.tray = h("div", { class: "tray", role: "group", sayLabel: "unranked", "data-drop": "tray" });
    const tool = (say, act, action = say) => h("button", { type: "button", onclick: act }, h("span", { say }), cap(action));
    this.agree = tool("agree", () => this.#agree());
    const tools = [
      tool("tie_last", () => this.#tie(), "tie"),
      tool("back", () => this.#back()),
      this.agree,
      cannotButton(cap, ready, () => send({ type: "choice", chosen: "cannot", strength: null })),
    ];
    this.panel = h(
      "div",
      { class: "ranking" },
      h("p", { class: "hint", say: "ranking_hint" }),
      h("div", { class: "strip" }, this.best, this.tray),
      h("div", { class: "rest" }, tools),
    );
    this.drag = new Drag(this.panel, (chip, target) => this.#drop(Number(chip.dataset.place), target));
    this.#draw();
  }

  actions() {
    const places = Object.fromEntries(this.chips.slice(0, 9).map((_, place) => [String(place + 1), () => this.#add(place)]));
    const cannot = () => this.send({ type: "choice", chosen: "cannot", strength: null });
    return { ...places, tie: () => this.#tie(), back: () => this.#back(), agree: () => this.#agree(), send: () => this.send(), cannot };
  }

  answer() {
    const whole = this.#buckets.flat().length === this.count;
    return whole ? { type: "ranks", buckets: this.#buckets.map((bucket) => [...bucket]) } : null;
  }

  /** Why there is no answer yet, as a key of the catalogue. */
  missing = () => "ranking_missing";

  restore(answer) {
    this.#set(answer.buckets ?? [], null);
  }

  #add(place) {
    if (this.#buckets.flat().includes(place)) return this.chips[place].focus();
    this.#set([...this.#buckets, [place]], place);
  }

  /** The last one ranked goes to the box before it, or out of it again. */
  #tie() {
    const last = this.#last ?? this.#buckets.at(-1)?.at(-1);
    if (last === undefined) return;
    const at = this.#buckets.findIndex((bucket) => bucket.includes(last));
    const bucket = this.#buckets[at];
    const next =
      bucket.length > 1
        ? moved(this.#buckets, last, { before: this.#buckets[at + 1]?.[0] ?? null })
        : at > 0
          ? moved(this.#buckets, last, { mate: this.#buckets[at - 1][0] })
          : this.#buckets;
    this.#set(next, last);
  }

  #back() {
    const last = this.#last ?? this.#buckets.at(-1)?.at(-1);
    if (last !== undefined) this.#set(without(this.#buckets, last), null);
  }

  #agree() {
    const ranked = this.#buckets.flat();
    const rest = this.chips.map((_, place) => place).filter((place) => !ranked.includes(place));
    if (rest.length) this.#set([...this.#buckets, ...rest.map((place) => [place])], rest.at(-1));
  }

  #drop(place, target) {
    if (target.drop === "tray") return this.#set(without(this.#buckets, place), null);
    const where =
      target.mate !== undefined ? { mate: Number(target.mate) } : { before: target.before === "" ? null : Number(target.before) };
    this.#set(moved(this.#buckets, place, where), place);
  }

  #chip(place) {
    const name = letter(place);
    return h(
      "button",
      { type: "button", class: "chip", "data-place": place, onclick: () => this.#click(place), onkeydown: (e) => this.#keydown(e, place) },
      h("span", { class: "name", text: name }),
      h("kbd", { text: String(place + 1) }),
    );
  }

  #click(place) {
    if (!this.drag.justDropped) this.#add(place);
  }

  /** On a chip: left and right move it, up ties it with the box before, Delete takes it out. */
  #keydown(event, place) {
    const at = this.#buckets.findIndex((bucket) => bucket.includes(place));
    const alone = this.#buckets[at]?.length === 1;
    const left = this.#buckets[alone ? at - 1 : at]?.find((p) => p !== place);
    const right = this.#buckets[at + (alone ? 2 : 1)]?.[0] ?? null;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (at < 0 || !["ArrowLeft", "ArrowRight", "ArrowUp", "Delete"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "ArrowLeft" && left !== undefined) this.#set(moved(this.#buckets, place, { before: left }), place);
    if (event.key === "ArrowRight") this.#set(moved(this.#buckets, place, { before: right }), place);
    if (event.key === "ArrowUp" && at > 0) this.#set(moved(this.#buckets, place, { mate: this.#buckets[at - 1][0] }), place);
    if (event.key === "Delete") this.#set(without(this.#buckets, place), null);
    this.chips[place].focus();
  }

  #set(buckets, last) {
    this.#buckets = buckets;
    this.#last = last;
    const had = this.chips.find((chip) => chip === document.activeElement);
    this.#draw();
    had?.focus();
    this.announce("order_now", { order: this.#words() });
    this.changed();
  }

  #rankOf = (place) => this.#buckets.findIndex((bucket) => bucket.includes(place)) + 1;
  #words = () => this.#buckets.map((bucket) => bucket.map(letter).join(" = ")).join(" > ") || "–";

  #draw() {
    const gap = (before) => h("span", { class: "gap", "data-drop": "gap", "data-before": before ?? "", "aria-hidden": "true" });
    const box = (bucket, i) =>
      h(
        "span",
        { class: "bucket", "data-drop": "bucket", "data-mate": bucket[0] },
        h("b", { class: "rank", text: String(i + 1) }),
        bucket.map((place) => this.chips[place]),
      );
    const ranked = this.#buckets.flat();
    this.best.replaceChildren(...this.#buckets.flatMap((bucket, i) => [gap(bucket[0]), box(bucket, i)]), gap(null));
    this.tray.replaceChildren(...this.chips.filter((_, place) => !ranked.includes(place)));
    this.agree.disabled = ranked.length === this.count;
    this.answers.forEach((answer, place) => (answer.querySelector("header").dataset.rank = this.#rankOf(place) || ""));
    this.chips.forEach((chip, place) =>
      chip.setAttribute("aria-label", `${letter(place)}${ranked.includes(place) ? `: ${this.#rankOf(place)}` : ""}`),
    );
  }
}
