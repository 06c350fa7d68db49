// What is wrong where: stretches of the answers' texts with a kind each. Places count Unicode characters, as Python does, not UTF-16.
import { cannotButton, h, letter } from "./dom.js";
import { offsetsIn, segments, wordAt } from "./offsets.js";
import { pieces } from "./text.js";

const KINDS = ["object", "attribute", "count", "relation", "text", "other"]; // those that the catalogue has words for

export class Marking {
  #spans = [];
  #cursor = null; // {place, start, end}: what the next mark would take, by mouse or by keys

  constructor({ item, page, content, cap, announce, send, changed, ready }) {
    Object.assign(this, { announce, send, changed, kinds: page.span_kinds });
    this.texts = item.answers.map(({ text }) => Array.from(text));
    this.answers = item.answers.map((_, place) => content.answer(place, true));
    this.hosts = this.answers.map((answer, place) => this.#host(answer.querySelector(".plain"), place));
    this.list = h("ul", { class: "marks", sayLabel: "marks" });
    const kind = (name, i) =>
      h(
        "button",
        { type: "button", class: `kind k${i % 6}`, onmousedown: (e) => e.preventDefault(), onclick: () => this.#mark(i) },
        this.#kindName(name),
        cap(String(i + 1)),
      );
    this.nothing = h(
      "button",
      { type: "button", onclick: () => ready() && this.#nothing() },
      h("span", { say: "nothing" }),
      cap("nothing"),
    );
    this.panel = h(
      "div",
      { class: "marking" },
      h("p", { class: "hint", say: "marking_hint" }),
      h("div", { class: "kinds", role: "group", sayLabel: "kinds" }, this.kinds.map(kind)),
      this.list,
      h(
        "div",
        { class: "rest" },
        this.nothing,
        cannotButton(cap, ready, () => this.#cannot()),
      ),
    );
    this.#drawList();
  }

  actions() {
    const kinds = Object.fromEntries(this.kinds.slice(0, 9).map((_, i) => [String(i + 1), () => this.#mark(i)]));
    return {
      ...kinds,
      back: () => this.#remove(this.#spans.length - 1),
      nothing: () => this.#nothing(),
      send: () => this.send(),
      cannot: () => this.#cannot(),
    };
  }

  answer() {
    return this.#spans.length ? { type: "spans", spans: this.#spans.map((span) => ({ ...span })) } : null;
  }

  missing = () => "marking_missing";

  restore(answer) {
    this.#spans = (answer.spans ?? []).map((span) => ({ ...span }));
    this.#changed();
  }

  #nothing() {
    if (this.#spans.length) this.announce("marking_not_nothing");
    else this.send({ type: "spans", spans: [] });
  }

  #cannot() {
    this.send({ type: "choice", chosen: "cannot", strength: null });
  }

  #kindName(name) {
    return h("span", KINDS.includes(name) ? { say: `kind_${name}` } : { text: name });
  }

  #host(host, place) {
    host.tabIndex = 0;
    host.setAttribute("role", "group");
    host.setAttribute("aria-describedby", "marking-keys");
    document.addEventListener("selectionchange", this.#watch(host, place));
    host.addEventListener("keydown", (event) => this.#key(event, host, place));
    return host;
  }

  /** The selection of the mouse or finger, while the item is on the page. */
  #watch(host, place) {
    const listener = () => {
      if (!host.isConnected) return this.shown ? document.removeEventListener("selectionchange", listener) : undefined;
      this.shown = true;
      const found = offsetsIn(host, getSelection());
      if (found) this.#cursor = { place, ...found };
    };
    return listener;
  }

  /** Without a mouse: arrows go word by word (with Alt sign by sign), Shift makes it longer. */
  #key(event, host, place) {
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!way || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const from = this.#cursor?.place === place ? this.#cursor : null;
    this.#cursor = { place, ...wordAt(this.texts[place], from, way, event.shiftKey, event.altKey) };
    getSelection().removeAllRanges();
    this.#drawText(place);
    this.announce("cursor_at", { text: this.#text(this.#cursor) });
  }

  /** What the next mark takes: what is selected now, else what was selected last (a tap on a button ends a selection on phones). */
  #at() {
    const places = this.hosts.map((host, place) => ({ place, found: offsetsIn(host, getSelection()) }));
    const now = places.find(({ found }) => found);
    return now ? { place: now.place, ...now.found } : this.#cursor;
  }

  #mark(index) {
    const at = this.#at();
    if (!at || at.start >= at.end) return this.announce("marking_first");
    const span = { candidate: at.place, start: at.start, end: at.end, kind: this.kinds[index], note: "" };
    const same = (other) => ["candidate", "start", "end", "kind"].every((name) => other[name] === span[name]);
    if (!this.#spans.some(same)) this.#spans.push(span);
    this.#spans.sort((a, b) => a.candidate - b.candidate || a.start - b.start || a.end - b.end);
    this.#cursor = { ...at, start: span.end }; // the arrows go on from here
    getSelection().removeAllRanges();
    this.announce("marked", { text: this.#text({ place: span.candidate, ...span }), kind: span.kind });
    this.#changed();
  }

  #remove(index) {
    if (index < 0) return;
    this.#spans.splice(index, 1);
    this.#changed();
  }

  #changed() {
    this.texts.forEach((_, place) => this.#drawText(place));
    this.#drawList();
    this.changed();
  }

  #text = ({ place, start, end }) => this.texts[place].slice(start, end).join("");

  #drawText(place) {
    const spans = this.#spans.filter(({ candidate }) => candidate === place);
    const cursor = this.#cursor?.place === place ? this.#cursor : null;
    const parts = segments(this.texts[place].length, spans, cursor).map(({ start, end, inside, under }) => {
      const nodes = pieces(this.texts[place].slice(start, end).join(""));
      if (!inside.length && !under) return nodes;
      const kinds = inside.map(({ kind }) => `k${this.kinds.indexOf(kind) % 6}`);
      return h(
        "mark",
        { class: ["span", ...kinds, under ? "cursor" : ""].join(" ").trim(), title: inside.map(({ kind }) => kind).join(", ") || null },
        nodes,
      );
    });
    this.hosts[place].replaceChildren(...parts.flat());
  }

  #drawList() {
    this.list.replaceChildren(
      ...this.#spans.map((span, i) => {
        const text = this.#text({ place: span.candidate, ...span });
        const where = this.texts.length > 1 ? h("b", { text: letter(span.candidate) }) : null;
        const remove = h("button", {
          type: "button",
          class: "small",
          sayLabel: ["remove_mark", { text }],
          sayTitle: "remove",
          onclick: () => this.#remove(i),
          text: "×",
        });
        return h(
          "li",
          { class: `k${this.kinds.indexOf(span.kind) % 6}` },
          where,
          h("q", { text: text.length > 80 ? `${text.slice(0, 79)}…` : text }),
          this.#kindName(span.kind),
          remove,
        );
      }),
    );
    this.nothing.disabled = this.#spans.length > 0;
  }
}
