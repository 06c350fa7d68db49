// A conversation as turns: who says what, which tools are called, what the world gave for an answer.
import { h } from "../site/dom.js";
import { known, number, say } from "./text.js";

const role = (name) => (known(`turns.${name}`) ? say(`turns.${name}`) : name);

export function turns(all) {
  return h("ol", { class: "turns" }, ...all.map(turn));
}

function turn(t) {
  return h(
    "li",
    { class: `turn ${["assistant", "tool", "user"].includes(t.role) ? t.role : "other"}` },
    h("header", {}, h("b", {}, role(t.role)), t.name && h("code", {}, t.name), typeof t.reward === "number" && h("span", { class: "chip" }, say("samples.reward", { value: number(t.reward, 3) }))),
    t.thought && h("p", { class: "text soft", dir: "auto" }, t.thought),
    (t.text || !t.calls) && h("p", { class: "text", dir: "auto" }, t.text || say("samples.empty")),
    ...(t.calls || []).map((call) => h("p", { class: "text" }, h("code", {}, call))),
  );
}
