// One item, drawn: prompt, answers, what to answer with, reason. Drawn while the item before is still on the screen.
import { Content, sources } from "./content.js";
import { h } from "./dom.js";
import { language } from "./i18n.js";
import { cap } from "./keys.js";
import { picture, Panes } from "./media.js";
import { Marking } from "./spans.js";
import { Pairwise } from "./pairwise.js";
import { Ranking } from "./ranking.js";
import { Rating } from "./rating.js";

const KINDS = { pairwise: Pairwise, ranking: Ranking, rating: Rating, spans: Marking };
const LONGEST_REASON = 2000;

/**
 * Resolves when all pictures are decoded. `hooks`: {keys, ready() (may it be answered?), send(answer?), changed(), announce(key, values)}.
 */
export async function draw(item, page, hooks) {
  const Kind = KINDS[item.kind];
  if (!Kind) throw new Error(`items of kind ${item.kind} are unknown to this page: load it again`);
  const pictures = new Map();
  const images = await Promise.all(sources(item).map(async (source) => [source, await picture(source)]));
  for (const [source, image] of images) pictures.set(source, [...(pictures.get(source) ?? []), image]);
  const panes = new Panes();
  const content = new Content(item, pictures, panes);
  const keycap = (action) => keyCap(hooks.keys, action);
  const prompt = content.prompt();
  const component = new Kind({ item, page, content, cap: keycap, ...hooks });
  const reason = reasonField(page, keycap, hooks);
  const send = h(
    "button",
    { type: "button", class: "primary send", onclick: () => hooks.send() },
    h("span", { say: "send" }),
    keycap("send"),
  );
  const sending = item.kind !== "pairwise" || page.reason === "required";
  const foot = h("div", { class: "foot" }, reason?.element, sending && send);
  const answers = h("div", { class: `answers n${Math.min(component.answers.length, 5)}` }, component.answers);
  const panel = h("div", { class: "panel card" }, component.panel, foot);
  const kind = `item kind-${item.kind}${panes.any ? " pictures" : ""}`;
  const element = h("article", { class: kind, "data-handle": item.handle }, prompt, answers, panel);
  const drawn = { language: language(), keys: hooks.keys.version };
  return { item, page, drawn, element, component, panes, reason: reason?.field ?? null };
}

/** The key of an action, on the screen; it follows when the person changes it. */
function keyCap(keys, action) {
  const element = h("kbd", { "data-action": action, "aria-hidden": "true" });
  element.textContent = cap(keys.keyFor(action));
  return element;
}

function reasonField(page, keycap, hooks) {
  if (page.reason === "off") return null;
  const field = h("textarea", {
    rows: "1",
    maxlength: LONGEST_REASON,
    oninput: () => (grow(field), hooks.changed()),
    spellcheck: "false",
    dir: "auto",
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing) field.blur();
  });
  const words = page.reason === "required" ? "reason_required" : "reason";
  return { field, element: h("label", { class: "reason" }, h("span", {}, h("span", { say: words }), keycap("reason")), field) };
}

function grow(field) {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, 160)}px`;
}
