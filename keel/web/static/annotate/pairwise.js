// Two answers: a scale from "A much better" to "B much better" with the tie in the middle; both bad and cannot judge stand apart.
import { h, letter } from "./dom.js";

/** The steps of the scale from left to right. `steps` on each side; one step: nobody asks how clear it was. */
export function scale(steps) {
  const side = (chosen, name) =>
    Array.from({ length: steps }, (_, i) => {
      const level = chosen === "first" ? steps - i : i + 1;
      const strength = steps > 1 ? level / steps : null;
      return {
        chosen,
        strength,
        row: steps - level + 1,
        say: [steps === 1 ? "better" : steps <= 3 ? `better_${level}_of_${steps}` : "better_level", { name, level, steps }],
      };
    });
  return [...side("first", letter(0)), { chosen: "tie", strength: null, say: ["tie", {}] }, ...side("second", letter(1))];
}

export class Pairwise {
  #pressed = null;

  constructor({ content, page, cap, ready, send }) {
    Object.assign(this, { ready, send, steps: scale(Math.min(4, Math.max(1, page.strength_steps ?? 3))) });
    this.answers = [content.answer(0), content.answer(1)];
    const digits = this.steps.map((step, i) => this.#button(step, String(i + 1), cap, step.chosen));
    const rest = ["both_bad", "cannot"].map((name) => this.#button({ chosen: name, strength: null, say: [name, {}] }, name, cap, name));
    this.buttons = [...digits, ...rest];
    const lines = Math.max(1, (digits.length - 1) / 2);
    this.panel = h(
      "div",
      { class: "choices" },
      h(
        "div",
        { class: `scale s${lines}`, role: "group", sayLabel: "scale" },
        digits.map(({ button }) => button),
      ),
      h(
        "div",
        { class: "rest", role: "group", sayLabel: "else" },
        rest.map(({ button }) => button),
      ),
    );
  }

  actions() {
    return Object.fromEntries(this.buttons.map(({ action, choice }) => [action, () => this.#press(choice)]));
  }

  answer() {
    return this.#pressed && { type: "choice", chosen: this.#pressed.chosen, strength: this.#pressed.strength };
  }

  restore(answer) {
    this.#pressed =
      this.buttons.map(({ choice }) => choice).find((c) => c.chosen === answer.chosen && c.strength === answer.strength) ?? null;
    this.#draw();
  }

  #button(choice, action, cap, kind) {
    const words = h("span", { say: choice.say });
    const button = h(
      "button",
      {
        type: "button",
        class: `choice ${kind} ${choice.row ? `r${choice.row}` : ""}`,
        "aria-pressed": "false",
        onclick: () => this.#press(choice),
      },
      words,
      cap(action),
    );
    return { choice, action, button };
  }

  #press(choice) {
    if (!this.ready()) return;
    this.#pressed = choice;
    this.#draw();
    this.send();
  }

  #draw() {
    for (const { choice, button } of this.buttons) button.setAttribute("aria-pressed", String(choice === this.#pressed));
  }
}
