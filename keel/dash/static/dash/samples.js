// Answers over time side by side, and the worst ones.
import { h } from "../site/dom.js";
import { get, trouble } from "./net.js";
import { number, say, whole } from "./text.js";
import { turns } from "./turns.js";

const MOST = 6; // steps side by side

export async function samples(place, view) {
  const found = await get("/api/prompts", { r: view.runs });
  if (!found.prompts.length) {
    place.replaceChildren(h("p", { class: "lead" }, say("samples.none")));
    return;
  }
  const choice = h("select", {}, ...found.prompts.map((p) => h("option", { value: p.id }, p.prompt || say("samples.empty"))));
  const order = h("select", {}, h("option", { value: "time" }, say("samples.over_time")), h("option", { value: "worst" }, say("samples.worst")));
  const raw = h("input", { type: "checkbox" });
  const prompt = h("label", { class: "inline grow" }, say("samples.prompt"), choice);
  const body = h("div", { class: "answers-part" });
  const state = { steps: [] };
  const show = async () => {
    prompt.hidden = order.value === "worst";
    try {
      body.replaceChildren(...(order.value === "worst" ? await worst(view, raw.checked) : await overTime(view, choice.value, state, raw.checked, show)));
      trouble(null);
    } catch (error) {
      trouble(error);
    }
  };
  choice.addEventListener("change", () => { state.steps = []; show(); });
  order.addEventListener("change", show);
  raw.addEventListener("change", show);
  place.replaceChildren(
    h("div", { class: "tools" }, h("label", { class: "inline" }, say("samples.order"), order), prompt, h("label", { class: "check" }, raw, say("samples.raw"))),
    found.left_out ? h("p", { class: "note" }, say("samples.more", { n: found.left_out })) : "",
    body,
  );
  await show();
}

async function overTime(view, prompt, state, raw, show) {
  const { runs } = await get("/api/samples", { r: view.runs, prompt, step: state.steps });
  const every = [...new Set(runs.flatMap((run) => run.steps))].sort((a, b) => a - b);
  const shown = [...new Set(runs.flatMap((run) => run.answers.map((a) => a.step)))];
  const pick = every.map((step) => {
    const button = h("button", { type: "button", class: "small", "aria-pressed": shown.includes(step) ? "true" : "false" }, whole(step));
    button.addEventListener("click", () => {
      const steps = shown.includes(step) ? shown.filter((s) => s !== step) : [...shown, step].slice(-MOST);
      state.steps = steps.length ? steps : [step];
      show();
    });
    return button;
  });
  return [
    h("p", { class: "note" }, say("samples.steps")),
    h("div", { class: "steps" }, ...pick),
    ...runs.map((run, i) =>
      h("section", { class: "over-time", "data-run": run.run }, view.runs.length > 1 && h("h2", {}, view.names[i]), h("div", { class: "side-by-side" }, ...run.answers.sort((a, b) => a.step - b.step).map((a) => answer(a, raw)))),
    ),
  ];
}

async function worst(view, raw) {
  const { runs } = await get("/api/worst", { r: view.runs });
  return runs.map((run, i) => h("section", {}, view.runs.length > 1 && h("h2", {}, view.names[i]), h("div", { class: "side-by-side wrap" }, ...run.answers.map((a) => answer(a, raw, true)))));
}

function answer(a, raw, asked = false) {
  const failed = a.reward === null || a.error;
  const text = (raw && a.raw) || a.text || "";
  return h(
    "article",
    { class: `card answer${failed ? " failed" : ""}` },
    h("header", {}, h("b", {}, say("samples.step", { step: a.step ?? "–" })), h("span", { class: "soft" }, failed ? say("samples.failed") : say("samples.reward", { value: number(a.reward, 3) })), a.why ? h("span", { class: "chip" }, a.why) : ""),
    asked && h("p", { class: "asked" }, a.prompt || ""),
    a.error && h("p", { class: "error" }, a.error),
    a.turns?.length && !raw ? turns(a.turns) : h("p", { class: "text", dir: "auto" }, text || say("samples.empty")),
    a.text_length && h("p", { class: "note" }, say("samples.cut", { n: whole(a.text_length) })),
  );
}
