// A run in a line: state, steps, alarms.
import { h } from "../site/dom.js";
import { number, say, whole } from "./text.js";

export const stateChip = (run) => h("span", { class: `chip state ${run.state}`, title: run.why }, say(`state.${run.state}`));

export function alarmChips(run) {
  return ["critical", "warning", "info"].filter((level) => run.alarms?.[level]).map((level) => h("span", { class: `chip ${level}` }, `${whole(run.alarms[level])} ${say(`level.${level}`)}`));
}

export function progress(run) {
  const text = run.total ? `${whole(run.step)} / ${whole(run.total)}` : whole(run.step);
  const share = run.total ? Math.min(1, run.step / run.total) : 0;
  return h("span", { class: "progress" }, text, run.total ? h("span", { class: "meter", "aria-hidden": "true" }, h("i", { style: { width: `${100 * share}%` } })) : "");
}

/** A run above its curves. `take` leaves it out of the view; none: it is the only one. */
export function head(run, name, colour, without) {
  return h(
    "div",
    { class: "head card", "data-run": run.id },
    h("div", { class: "head-line" }, h("i", { class: "swatch", style: { background: `var(--c${colour})` } }), h("a", { href: `/view?${new URLSearchParams({ r: run.id })}` }, h("b", {}, name)), h("span", { class: "verb" }, run.verb), without && h("a", { class: "remove", href: without, "aria-label": say("view.remove", { run: run.id }) }, "×")),
    h("div", { class: "head-line" }, stateChip(run), progress(run), ...alarmChips(run)),
    h("div", { class: "head-line results" }, ...(run.numbers || []).map(([key, value]) => h("span", { class: "result" }, h("b", {}, number(value)), ` ${key}`))),
  );
}
