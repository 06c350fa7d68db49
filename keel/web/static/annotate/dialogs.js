// What lies over the page: guideline, keys, votes that were refused, what a training item teaches. Hot keys sleep meanwhile.
import { h, letter, say } from "./dom.js";
import { language, t } from "./i18n.js";
import { cap, DEFAULTS, keyOf } from "./keys.js";
import { markdown } from "./text.js";

/** Open a dialog; it is taken away when it closes, and the focus goes back to where it was. Returns the dialog. */
export function dialog(title, body, { closed = () => {}, kind = "" } = {}) {
  const head = h("h2", { id: "dialog-title", say: title });
  const close = h("button", {
    type: "button",
    class: "small close",
    sayLabel: "close",
    sayTitle: "close",
    text: "×",
    onclick: () => element.close(),
  });
  const element = h("dialog", { class: kind, "aria-labelledby": "dialog-title" }, h("header", {}, head, close), body);
  element.addEventListener("close", () => {
    element.remove();
    closed();
  });
  document.body.append(element);
  element.showModal();
  return element;
}

/** The guideline in force, with its version and weights. `load()` -> {version, text, weights}. */
export async function showGuideline(load) {
  const body = h("div", { class: "guideline", "aria-live": "polite" }, h("p", { say: "loading" }));
  dialog("guideline", body, { kind: "drawer" });
  try {
    const { version, text, weights } = await load();
    const rows = Object.entries(weights ?? {})
      .sort((a, b) => b[1] - a[1])
      .map(([name, weight]) => h("tr", {}, h("th", { scope: "row" }, dimension(name)), h("td", { text: `${weight} %` })));
    const table = rows.length ? h("table", {}, h("caption", { say: "weights" }), h("tbody", {}, rows)) : null;
    body.replaceChildren(...[h("p", { class: "note", say: ["guideline_version", { version }] }), table, markdown(text)].filter(Boolean));
  } catch {
    body.replaceChildren(h("p", { class: "note bad", say: "guideline_unreachable" }));
  }
}

const dimension = (name) =>
  h("span", ["accuracy", "completeness", "relevance", "fluency"].includes(name) ? { say: `dimension_${name}` } : { text: name });

/** All keys, to read and to change. `actions`: those that can be asked for on this page. */
export function showKeys(keys, actions) {
  const body = h("div", { class: "keys" });
  const told = h("p", { class: "note", role: "status" });
  const row = (action) => {
    const button = h("button", {
      type: "button",
      class: "key",
      sayLabel: ["key_of", { name: () => t(nameOf(action)), key: cap(keys.keyFor(action)) }],
      text: cap(keys.keyFor(action)),
      onclick: () => listen(action, button),
    });
    return h("tr", {}, h("th", { scope: "row", say: nameOf(action) }), h("td", {}, button));
  };
  const fill = () =>
    body.replaceChildren(
      h("p", { say: "keys_hint" }),
      h("table", {}, h("tbody", {}, actions.map(row))),
      told,
      h("button", { type: "button", say: "keys_reset", onclick: () => (keys.reset(), fill()) }),
    );
  const listen = (action, button) => {
    say(told, ["key_press", { name: () => t(nameOf(action)) }]);
    button.classList.add("listening");
    button.addEventListener("keydown", (event) => take(event, action), { once: true });
  };
  const take = (event, action) => {
    if (event.isComposing || event.key === "Tab" || event.key === "Escape" || ["Shift", "Control", "Alt", "Meta"].includes(event.key))
      return fill();
    event.preventDefault();
    const other = keys.change(action, keyOf(event));
    fill();
    say(told, other ? ["key_taken", { name: () => t(nameOf(other)) }] : "key_changed");
    body.querySelectorAll("button.key")[actions.indexOf(action)]?.focus();
  };
  fill();
  return dialog("keys", body);
}

const nameOf = (action) => `action_${action}`;
export const ACTIONS = Object.keys(DEFAULTS);

/** Votes that the server refused: what, why, and what can be done. They stay until the person lets them go. */
export async function showRefused(outbox) {
  const body = h("div", { class: "refused" });
  const fill = async () => {
    const rows = (await outbox.rows()).filter((row) => row.state === "refused");
    const items = rows.map((row) =>
      h(
        "li",
        {},
        h("b", { say: row.error.status === 409 ? "refused_409" : row.error.status === 403 ? "refused_403" : "refused_other" }),
        h("p", { class: "note", text: `${row.error.message} (${row.error.status})` }),
        h("p", {}, words(row.body.answer)),
        h("button", { type: "button", say: "discard", onclick: async () => (await outbox.discard(row.seq), fill()) }),
      ),
    );
    const save = h("button", { type: "button", say: "save_file", onclick: () => download(rows) });
    body.replaceChildren(
      ...(rows.length ? [h("p", { say: "refused_hint" }), h("ul", {}, items), save] : [h("p", { say: "refused_none" })]),
    );
  };
  await fill();
  return dialog("refused", body);
}

function download(rows) {
  const text = rows.map((row) => JSON.stringify({ path: row.path, body: row.body, at: row.at, error: row.error })).join("\n") + "\n";
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type: "application/jsonl" })), download: "refused_votes.jsonl" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** After a training item: right or not, what was expected and why. */
export function showFeedback({ answer, feedback }, closed) {
  const verdict = feedback.right ? "feedback_right" : "feedback_wrong";
  const row = (name, what) => h("p", {}, h("b", { say: name }), " ", what);
  const why = explained(feedback.explanation);
  const go = h("button", { type: "button", class: "primary", say: "go_on", autofocus: true, onclick: () => element.close() });
  const body = h(
    "div",
    { class: `feedback ${feedback.right ? "right" : "wrong"}` },
    row("you_said", words(answer)),
    feedback.expected && row("expected", words(feedback.expected)),
    why,
    go,
  );
  const element = dialog(verdict, body, { closed, kind: feedback.right ? "right" : "wrong" });
  return element;
}

/** An explanation is a text, or one text a language. */
function explained(what) {
  const text = typeof what === "string" ? what : (what?.[language()] ?? Object.values(what ?? {})[0]);
  return text ? markdown(text) : null;
}

/** An answer in words. Places are those on the screen. */
export function words(answer) {
  if (!answer) return h("span", { say: "take_back" }); // an event that takes an answer back has none
  if (answer.type === "ranks") return h("span", { text: answer.buckets.map((bucket) => bucket.map(letter).join(" = ")).join(" > ") });
  if (answer.type === "scores")
    return h(
      "span",
      {},
      Object.entries(answer.scores).map(([name, score]) => h("span", { class: "score" }, dimension(name), ` ${score}  `)),
    );
  if (answer.type === "spans")
    return h(
      "span",
      answer.spans.length
        ? { text: answer.spans.map((s) => `${letter(s.candidate)} ${s.start}–${s.end} ${s.kind}`).join("; ") }
        : { say: "nothing" },
    );
  const place = { first: 0, second: 1 }[answer.chosen];
  return h("span", place === undefined ? { say: answer.chosen } : { say: ["better", { name: letter(place) }] });
}
