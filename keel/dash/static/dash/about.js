// Where a run came from, what it left, and how several differ.
import { h, table } from "../site/dom.js";
import { get } from "./net.js";
import { bytes, number, say, when, whole } from "./text.js";

const link = (run) => h("a", { href: `/view?${new URLSearchParams({ r: run })}` }, run);
const pairs = (rows) => h("div", { class: "scroll low" }, h("table", { class: "pairs" }, h("tbody", {}, ...rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, typeof value === "number" ? number(value) : value))))));
const card = (title, ...inside) => h("section", { class: "card" }, h("h2", {}, title), ...inside);
const list = (runs) => (runs.length ? h("ul", {}, ...runs.map((run) => h("li", {}, link(run)))) : h("p", { class: "soft" }, say("about.nothing")));

export async function about(place, view) {
  const all = await Promise.all(view.runs.map((run) => get("/api/about", { r: run })));
  place.replaceChildren(...all.map((one, i) => h("div", { class: "about" }, view.runs.length > 1 && h("h2", { class: "wide" }, view.runs[i]), ...cards(one))));
}

function cards(one) {
  if (one.why) return [h("p", { class: "error" }, one.why)];
  const points = one.checkpoints.map((c) =>
    h("tr", {}, h("td", { class: "number" }, whole(c.step)), h("td", { class: "number" }, bytes(c.bytes)), h("td", {}, ...c.marks.map((m) => h("span", { class: "chip" }, say(`mark.${m}`))), c.whole ? "" : h("span", { class: "chip critical" }, say("about.broken")))),
  );
  return [
    card(
      say("about.checkpoints"),
      points.length ? table([say("about.step"), say("about.size"), say("about.marks")], points) : h("p", { class: "soft" }, say("about.nothing")),
      one.final && h("p", { class: "note" }, say("about.final")),
    ),
    card(say("about.parent"), one.parent ? h("p", {}, one.parent_id ? link(one.parent_id) : one.parent) : h("p", { class: "soft" }, say("about.nothing")), h("h2", {}, say("about.children")), list(one.children), one.stages.length ? h("h2", {}, say("about.stages")) : "", one.stages.length ? list(one.stages) : ""),
    card(say("about.data"), one.data.length || one.pinned.length ? pairs([...one.data, ...one.pinned]) : h("p", { class: "soft" }, say("about.nothing"))),
    card(say("about.starts"), h("ol", { class: "starts" }, ...one.starts.map((s) => h("li", {}, h("span", { class: "soft" }, when(s.at)), " ", h("code", {}, s.argv), ...s.changed.map((c) => h("p", { class: "note" }, c)))))),
    card(say("about.numbers"), pairs(one.numbers)),
    card(say("about.settings"), pairs(one.settings)),
    one.environment.length ? card(say("about.environment"), pairs(one.environment)) : "",
  ];
}

export async function comparison(place, view) {
  if (view.runs.length < 2) {
    place.replaceChildren(h("p", { class: "lead" }, say("compare.one")));
    return;
  }
  const found = await get("/api/compare", { r: view.runs });
  if (found.why) {
    place.replaceChildren(h("p", { class: "error" }, found.why));
    return;
  }
  const heads = [say("compare.name"), ...found.groups.map((g) => ({ text: say("compare.pooled", { n: g.length }), title: g.join(", ") })), ...view.names];
  const mean = (p) => h("td", { class: "number" }, p ? h("b", {}, number(p.mean)) : "–", p ? h("small", {}, ` ± ${number(p.half, 2)}`) : "");
  const rows = found.numbers.map((row) => h("tr", {}, h("th", { scope: "row" }, row.name), ...row.pooled.map(mean), ...row.values.map((v) => h("td", { class: "number" }, number(v)))));
  const settings = found.settings.map((row) => h("tr", {}, h("th", { scope: "row" }, row.name), ...row.values.map((v) => h("td", {}, v ?? "–"))));
  place.replaceChildren(
    card(say("compare.settings"), settings.length ? h("div", { class: "scroll" }, table([say("compare.name"), ...view.names], settings)) : h("p", { class: "soft" }, say("compare.same"))),
    card(say("compare.numbers"), h("div", { class: "scroll" }, table(heads, rows))),
  );
}
