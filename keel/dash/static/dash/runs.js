// The list of runs, kept up to date.
import { h } from "../site/dom.js";
import { follow, trouble } from "./net.js";
import { stateChip, alarmChips, progress } from "./head.js";
import { number, say, when } from "./text.js";
import { setUpSearch } from "./search.js";

const body = document.querySelector("#runs tbody");
const rows = new Map();
const chosen = new Set();
const link = document.getElementById("compare");

function choose() {
  const many = [...chosen].filter((name) => rows.has(name));
  link.setAttribute("aria-disabled", many.length ? "false" : "true");
  if (many.length) link.href = `/view?${new URLSearchParams(many.map((name) => ["r", name]))}`;
  else link.removeAttribute("href");
}

function row(run) {
  const box = h("input", { type: "checkbox", "aria-label": say("runs.choose_one", { run: run.id }) });
  box.checked = chosen.has(run.id);
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(run.id);
    else chosen.delete(run.id);
    choose();
  });
  return h(
    "tr",
    { "data-run": run.id, "data-state": run.state },
    h("td", {}, box),
    h("th", { scope: "row" }, h("a", { href: `/view?${new URLSearchParams({ r: run.id })}` }, run.id === "." ? "./" : run.id), h("span", { class: "verb" }, run.verb)),
    h("td", {}, stateChip(run)),
    h("td", { class: "number" }, progress(run)),
    h("td", { class: "results" }, ...(run.numbers || []).map(([name, value]) => h("span", { class: "result" }, h("b", {}, number(value)), ` ${name}`))),
    h("td", {}, ...alarmChips(run)),
    h("td", { class: "soft" }, run.started ? when(run.started) : ""),
    h("td", { class: "soft from" }, run.parent || ""),
  );
}

function show() {
  const sorted = [...rows.values()].sort((a, b) => (b.started || "").localeCompare(a.started || "") || a.id.localeCompare(b.id));
  const focus = document.activeElement?.closest?.("tr")?.dataset.run;
  const where = document.activeElement?.tagName;
  body.replaceChildren(...sorted.map(row));
  if (focus) [...body.children].find((tr) => tr.dataset.run === focus)?.querySelector(where === "A" ? "a" : "input")?.focus();
  document.getElementById("none").hidden = sorted.length > 0;
  filter();
  choose();
}

function filter() {
  const words = document.getElementById("q").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = [...body.children].map((tr) => words.every((w) => tr.textContent.toLowerCase().includes(w)));
  const any = fits.some(Boolean); // words of settings or samples alone hide nothing
  [...body.children].forEach((tr, i) => { tr.hidden = any && !fits[i]; });
}

setUpSearch(filter);
follow([], {
  rows({ rows: changed, gone, all }) {
    trouble(null);
    if (all) rows.clear();
    for (const run of changed) rows.set(run.id, run);
    for (const name of gone || []) rows.delete(name);
    show();
  },
});
