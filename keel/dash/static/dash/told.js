// What the runs told: alarms, rollbacks, interruptions.
import { h, table } from "../site/dom.js";
import { say, when, whole } from "./text.js";

const ALARMS = ["warning", "verdict", "emergency"];
let only = false;

export async function told(place, view) {
  const rows = view.known.events.filter((e) => !only || ALARMS.includes(e.kind)).sort((a, b) => (b.at || "").localeCompare(a.at || "") || b.step - a.step);
  const box = h("input", { type: "checkbox" });
  box.checked = only;
  box.addEventListener("change", () => {
    only = box.checked;
    told(place, view);
  });
  const line = (e) =>
    h(
      "tr",
      { class: e.undone === undefined ? "" : "undone", "data-kind": e.kind },
      h("td", {}, h("button", { type: "button", class: "small", onclick: () => view.zoom(Math.max(0, e.step - 50), e.step + 50) }, whole(e.step))),
      h("td", { class: "soft nowrap" }, when(e.at)),
      view.runs.length > 1 && h("td", {}, view.names[view.runs.indexOf(e.run)]),
      h("td", {}, h("span", { class: `chip ${e.level}` }, say(`event.${e.kind}`))),
      h("td", { class: "words" }, e.message, e.undone === undefined ? "" : h("span", { class: "note" }, ` (${say("told.undone", { step: e.undone })})`), e.page ? h("code", { class: "note" }, ` ${say("told.page")}: ${e.page}`) : ""),
    );
  const heads = [say("told.step"), say("told.when"), ...(view.runs.length > 1 ? [say("told.run")] : []), say("told.what"), say("told.text")];
  place.replaceChildren(
    h("div", { class: "tools" }, h("label", { class: "check" }, box, say("told.only"))),
    rows.length ? h("div", { class: "scroll" }, table(heads, rows.map(line))) : h("p", { class: "lead" }, say("told.none")),
    view.known.left_out ? h("p", { class: "note" }, say("told.left_out", { n: view.known.left_out })) : "",
  );
}
