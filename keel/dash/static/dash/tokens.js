import { h } from "../site/dom.js";
import { say } from "./text.js";

export async function tokens(place) {
  place.replaceChildren(h("p", { class: "lead" }, say("tokens.none")));
}
