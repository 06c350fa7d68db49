// The prompt and the answers of an item as elements.
import { h, letter } from "./dom.js";
import { markdown, plain } from "./text.js";

/** Sources of all pictures of an item, in order. */
export function sources(item) {
  const turns = [...(Array.isArray(item.prompt) ? item.prompt : []), ...item.answers.flatMap((answer) => answer.turns ?? [])];
  return turns
    .flatMap((turn) => (Array.isArray(turn.content) ? turn.content : []))
    .filter((part) => part.type === "image")
    .map((part) => part.url);
}

/** `pictures`: source -> decoded image; each is used once. */
export class Content {
  #number = 0;

  constructor(item, pictures, panes) {
    Object.assign(this, { item, pictures, panes, many: sources(item).length > 1 });
  }

  prompt() {
    const turns = typeof this.item.prompt === "string" ? [{ role: "user", content: this.item.prompt }] : this.item.prompt;
    const body = this.#turns(turns, turns.length === 1 && turns[0].role === "user");
    const tools = this.item.tools?.length ? h("details", {}, h("summary", { say: "tools" }), json(this.item.tools)) : null;
    return h(
      "section",
      { class: "prompt card", "aria-labelledby": "prompt-title" },
      h("h2", { id: "prompt-title", say: "question" }),
      body,
      tools,
    );
  }

  /** One answer; `exact`: its text as it is, so that places in it can be marked. */
  answer(place, exact = false) {
    const answer = this.item.answers[place];
    const id = `answer-${place}`;
    const title = h("h2", { id, class: "letter", say: ["answer", { name: letter(place) }] });
    const body = exact
      ? [plain(answer.text), ...this.#images(answer.turns ?? [])]
      : answer.turns
        ? this.#turns(answer.turns, answer.turns.length === 1)
        : [said(answer.text)];
    return h(
      "section",
      { class: "answer card", "aria-labelledby": id, "data-place": place },
      h("header", {}, title),
      h("div", { class: "body" }, body),
    );
  }

  #turns(turns, bare) {
    return turns.map((turn) => {
      const parts = typeof turn.content === "string" ? [said(turn.content)] : turn.content.map((part) => this.#part(part));
      const extra = turn.extra?.tool_calls
        ? [h("details", { open: true }, h("summary", { say: "tool_calls" }), json(turn.extra.tool_calls))]
        : [];
      if (bare) return h("div", { class: "turn" }, parts, extra);
      const known = ["system", "user", "assistant", "tool"].includes(turn.role);
      return h(
        "div",
        { class: `turn ${known ? turn.role : ""}` },
        h("h3", known ? { say: `role_${turn.role}` } : { text: turn.role }),
        parts,
        extra,
      );
    });
  }

  #part(part) {
    if (part.type !== "image") return said(part.text ?? "");
    this.#number++;
    const image = this.pictures.get(part.url)?.shift() ?? Object.assign(new Image(), { failed: true });
    return this.panes.pane(image, this.#number, this.many);
  }

  #images(turns) {
    const parts = turns.flatMap((turn) => (Array.isArray(turn.content) ? turn.content : []));
    return parts.filter((part) => part.type === "image").map((part) => this.#part(part));
  }
}

const said = (text) => (text.trim() ? markdown(text) : h("p", { class: "note", say: "empty_text" }));

function json(value) {
  return h("pre", { tabindex: "0" }, h("code", { text: JSON.stringify(value, null, 1) }));
}
