// Search over runs, settings, metrics and samples.
import { h } from "../site/dom.js";
import { get, trouble } from "./net.js";
import { number, say } from "./text.js";

const place = document.getElementById("found");
const view = (run, hash = "") => `/view?${new URLSearchParams({ r: run })}${hash}`;

const lines = {
  runs: (x) => h("a", { href: view(x.run) }, x.run),
  settings: (x) => h("span", {}, h("a", { href: view(x.run, "#about") }, x.run), " ", h("code", {}, x.text)),
  metrics: (x) => h("span", {}, h("a", { href: view(x.run, `#curves=${encodeURIComponent(x.metric)}`) }, x.run), " ", h("code", {}, x.metric)),
  samples: (x) =>
    h("span", {}, h("a", { href: view(x.run, "#samples") }, x.run), ` ${say("samples.step", { step: x.step ?? "–" })} `, h("span", { class: "soft" }, number(x.reward)), h("q", {}, x.text)),
};

export function setUpSearch(typed) {
  const form = document.getElementById("search");
  const input = document.getElementById("q");
  input.addEventListener("input", typed);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const words = input.value.trim();
    place.hidden = !words;
    if (!words) return;
    try {
      show(await get("/api/search", { q: words }));
      trouble(null);
    } catch (error) {
      trouble(error);
    }
  });
}

function show(found) {
  const kinds = Object.keys(lines).filter((kind) => found[kind].length);
  place.replaceChildren(
    h("button", { type: "button", class: "small", onclick: () => { place.hidden = true; } }, say("search.close")),
    ...(kinds.length ? [] : [h("p", { class: "lead" }, say("search.nothing"))]),
    ...kinds.map((kind) =>
      h(
        "div",
        { class: "hits", "data-kind": kind },
        h("h2", {}, say(`search.${kind}`)),
        h("ul", {}, ...found[kind].map((x) => h("li", {}, lines[kind](x)))),
        found.more[kind] && h("p", { class: "note" }, say("search.more", { n: found.more[kind] })),
      ),
    ),
    found.unread ? h("p", { class: "note" }, say("search.unread", { n: found.unread })) : "",
  );
}
