// Answers token by token: KL, advantage, reward and whatever else the run kept of each.
import { h } from "../site/dom.js";
import { get, trouble } from "./net.js";
import { known, number, say, whole } from "./text.js";
import { turns } from "./turns.js";

const name = (signal) => (known(`signal.${signal}`) ? say(`signal.${signal}`) : signal);
const finite = (values) => values.filter((v) => typeof v === "number");

export async function tokens(place, view) {
  const all = await Promise.all(view.runs.map((run) => get("/api/tokens", { r: run })));
  const there = all.filter((found) => found.files.length);
  if (!there.length) {
    place.replaceChildren(h("p", { class: "lead" }, say("tokens.none")));
    return;
  }
  place.replaceChildren(...there.map((found) => section(found, view)));
}

function section(first, view) {
  const state = { found: first, answer: 0, signal: "" };
  const body = h("div", {});
  const step = h("select", {}, ...first.files.toReversed().map((f) => h("option", { value: f.id }, `${whole(f.step)} · ${say(`kind.${f.kind}`)}${f.undone ? ` · ${say("tokens.undone")}` : ""}`)));
  const answer = h("select", {});
  const colour = h("select", {});
  const show = () => {
    const answers = state.found.answers;
    answer.replaceChildren(...answers.map((a, i) => h("option", { value: i }, `${a.why} · ${a.reward === null ? say("samples.failed") : number(a.reward, 3)} · ${(a.prompt || "").slice(0, 60)}`)));
    state.answer = Math.min(state.answer, answers.length - 1);
    answer.value = String(state.answer);
    const one = answers[state.answer];
    const signals = one ? Object.keys(one.values) : [];
    if (!signals.includes(state.signal)) state.signal = signals[0] || "";
    colour.replaceChildren(...signals.map((s) => h("option", { value: s }, name(s))));
    colour.value = state.signal;
    body.replaceChildren(...(one ? shown(one, state.signal) : []));
  };
  step.addEventListener("change", async () => {
    try {
      state.found = await get("/api/tokens", { r: first.run, file: step.value });
      state.answer = 0;
      show();
      trouble(null);
    } catch (error) {
      trouble(error);
    }
  });
  answer.addEventListener("change", () => { state.answer = Number(answer.value); show(); });
  colour.addEventListener("change", () => { state.signal = colour.value; show(); });
  show();
  return h(
    "section",
    { "data-run": first.run },
    view.runs.length > 1 && h("h2", {}, view.names[view.runs.indexOf(first.run)]),
    h("div", { class: "tools" }, h("label", { class: "inline" }, say("told.step"), step), h("label", { class: "inline grow" }, say("tokens.answer"), answer), h("label", { class: "inline" }, say("tokens.colour"), colour)),
    body,
  );
}

function shown(one, signal) {
  const values = one.values[signal] || [];
  const most = Math.max(1e-12, ...finite(values).map(Math.abs));
  const said = h("p", { class: "said", role: "status" });
  const tell = (i) => said.replaceChildren(h("b", {}, JSON.stringify(one.pieces[i])), ` · ${say("tokens.token")} ${i + 1} · ${say("tokens.id")} ${one.tokens[i]}`, ...Object.entries(one.values).map(([s, v]) => ` · ${name(s)} ${number(v[i])}`), one.sampled[i] ? "" : ` · ${say("tokens.outside")}`);
  const spans = one.pieces.map((piece, i) => {
    const span = h("span", { class: `token${one.sampled[i] ? "" : " outside"}`, "data-token": i }, piece);
    const value = values[i];
    if (typeof value === "number") span.style.backgroundColor = `color-mix(in srgb, var(${value < 0 ? "--c4" : "--c1"}) ${Math.round((45 * Math.abs(value)) / most)}%, transparent)`;
    else if (value !== null && value !== undefined) span.classList.add("hole");
    return span;
  });
  const text = h("p", { class: "token-text", dir: "auto" }, ...spans);
  const at = (event) => {
    const span = event.target.closest?.("[data-token]");
    if (!span) return;
    text.querySelector("[aria-current]")?.removeAttribute("aria-current");
    span.setAttribute("aria-current", "true");
    tell(Number(span.dataset.token));
  };
  text.addEventListener("pointerover", at);
  text.addEventListener("click", at);
  const parts = Object.entries(one.parts);
  const numbers = finite(values);
  const top = numbers.length ? values.indexOf(numbers.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a))) : -1;
  return [
    h("section", { class: "card" }, h("h2", {}, say("tokens.prompt")), h("p", { class: "text asked" }, one.prompt || say("samples.empty"))),
    one.turns?.length ? h("section", { class: "card answer" }, h("h2", {}, say("turns.title")), turns(one.turns)) : "",
    h(
      "section",
      { class: "card" },
      h("header", { class: "head-line" }, h("h2", {}, say("tokens.answer")), h("span", { class: "chip" }, one.why), one.rule && h("span", { class: "chip critical" }, one.rule), one.undone ? h("span", { class: "chip warning" }, say("tokens.undone")) : "", one.finish && h("span", { class: "soft" }, one.finish), h("span", { class: "soft" }, one.reward === null ? say("samples.failed") : say("samples.reward", { value: number(one.reward) }))),
      one.error && h("p", { class: "error" }, one.error),
      text,
      said,
      one.n > one.pieces.length && h("p", { class: "note" }, `${whole(one.pieces.length)} / ${whole(one.n)}`),
      top >= 0 && h("p", { class: "note" }, `${name(signal)}: ${say("tokens.sum", { sum: number(numbers.reduce((a, b) => a + b, 0)), max: number(values[top]), at: top + 1 })}`),
      h("h3", {}, `${say("tokens.path")}: ${name(signal)}`),
      path(values),
    ),
    parts.length ? h("section", { class: "card" }, h("h2", {}, say("tokens.parts")), h("div", { class: "scroll" }, h("table", { class: "pairs" }, h("tbody", {}, ...parts.map(([k, v]) => h("tr", {}, h("th", { scope: "row" }, k), h("td", { class: "number" }, number(v)))))))) : "",
    h("details", {}, h("summary", {}, say("tokens.table")), table(one)),
  ];
}

/** The value from token to token. */
function path(values) {
  const svg = (tag, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
    made.append(...children);
    return made;
  };
  const numbers = finite(values);
  const [low, high] = [Math.min(0, ...numbers), Math.max(0, ...numbers)];
  const y = (v) => 100 - (100 * (v - low)) / (high - low || 1);
  let begun = false;
  const steps = values.map((v, i) => {
    if (typeof v !== "number") {
      begun = false;
      return "";
    }
    const move = `${begun ? "L" : "M"}${i} ${y(v).toFixed(2)} L${i + 1} ${y(v).toFixed(2)}`;
    begun = true;
    return move;
  });
  return svg("svg", { class: "path", viewBox: `0 -4 ${Math.max(1, values.length)} 108`, preserveAspectRatio: "none", role: "img", "aria-label": say("tokens.path") }, svg("path", { class: "zero", d: `M0 ${y(0)} H${values.length}` }), svg("path", { d: steps.join(" ") }));
}

function table(one) {
  const signals = Object.keys(one.values);
  const rows = one.pieces.slice(0, 1000).map((piece, i) => h("tr", {}, h("td", { class: "number" }, i + 1), h("td", {}, h("code", {}, JSON.stringify(piece))), h("td", { class: "number" }, one.tokens[i]), ...signals.map((s) => h("td", { class: "number" }, number(one.values[s][i])))));
  return h("div", { class: "scroll low" }, h("table", {}, h("thead", {}, h("tr", {}, ...["#", say("tokens.token"), say("tokens.id"), ...signals.map(name)].map((x) => h("th", { scope: "col" }, x)))), h("tbody", {}, ...rows)));
}
