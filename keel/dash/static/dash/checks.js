// What to have looked at before, during and after a training; what the program found, and what is left to people.
import { h, table } from "../site/dom.js";
import { get } from "./net.js";
import { language, say } from "./text.js";

const TONES = { pass: "good", fail: "critical", "cannot tell": "warning", "for a person": "" };
const chip = (state, text) => h("span", { class: `chip ${TONES[state]}`.trim() }, text);

export async function checks(place, view) {
  const all = await Promise.all(view.runs.map((run) => get("/api/checks", { r: run })));
  const again = h("button", { type: "button", class: "small" }, say("checks.again"));
  again.addEventListener("click", () => {
    again.disabled = true;
    checks(place, view).catch(() => (again.disabled = false));
  });
  place.replaceChildren(
    h("div", { class: "tools" }, again, h("p", { class: "note" }, say("checks.note"))),
    ...all.map((one, i) => h("section", { class: "checks" }, view.runs.length > 1 && h("h2", {}, view.names[i]), ...lists(one))),
  );
}

function lists(one) {
  if (!one.lists.length) return [h("p", { class: "lead" }, one.why || say("checks.none"))];
  return one.lists.map((list) =>
    h(
      "section",
      { class: "card", "data-when": list.when },
      h("h3", {}, say(`checks.${list.when}`)),
      h("p", { class: "counts" }, ...list.counts.map(([state, n]) => chip(state, `${say(`check.${state}`)} ${n}`))),
      h("div", { class: "scroll" }, table([say("checks.state"), say("checks.item"), say("checks.why")], list.items.map(line))),
    ),
  );
}

const line = (item) =>
  h(
    "tr",
    { "data-item": item.name, "data-state": item.state },
    h("td", { class: "nowrap" }, chip(item.state, say(`check.${item.state}`))),
    h("td", { class: "words" }, item.text[language] ?? item.text.en),
    h("td", { class: "words" }, item.why, h("code", { class: "note" }, ` ${item.page}`)),
  );
