// A conversation with one model, or with two side by side. Texts are set as text, never as markup.
import { h } from "/static/site/dom.js";

const texts = JSON.parse(document.getElementById("texts").textContent);
const sides = Number(document.getElementById("talk").dataset.sides);
const turns = document.getElementById("turns");
const question = document.getElementById("question");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const say = (key, values = {}) => texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);

let messages = []; // what the models are told next time
let waiting = null; // the turn whose vote decides what that is
let going = null; // what stops the answers

function trouble(text) {
  const place = document.getElementById("trouble");
  place.hidden = !text;
  place.textContent = text;
}

async function post(path, body, signal) {
  const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error?.message ?? `HTTP ${answer.status}`);
  return answer;
}

/** Events of a stream, one JSON value each. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part.slice("data: ".length));
  }
}

function show(text) {
  const words = Array.from({ length: sides }, () => h("p", { class: "words" }));
  const names = sides === 2 ? ["left", "right"] : ["answer"];
  const cards = words.map((place, i) => h("section", { class: "card", "aria-label": say(names[i]) }, h("h2", {}, say(names[i])), place));
  const item = h("li", {}, h("p", { class: "question", "aria-label": say("you") }, text), h("div", { class: "answers" }, ...cards));
  turns.append(item);
  item.scrollIntoView({ block: "nearest" });
  return { item, words };
}

function goOn(turn, side) {
  messages = [...turn.asked, { role: "assistant", content: turn.texts[side] }];
}

function votes(turn) {
  const note = h("p", { class: "note", role: "status" }, say("vote.goes_on"));
  const buttons = ["left", "right", "tie", "both_bad"].map((name) =>
    h("button", { type: "button", "data-vote": name, "aria-pressed": "false", onclick: () => give(name) }, say(`vote.${name}`)),
  );
  async function give(name) {
    buttons.forEach((b) => (b.disabled = true));
    try {
      const said = await (await post("/chat/vote", { turn: turn.id, vote: name })).json();
      buttons.find((b) => b.dataset.vote === name).setAttribute("aria-pressed", "true");
      goOn(turn, name === "right" ? 1 : 0);
      note.textContent = say(said.stored ? "vote.stored" : "vote.counted");
      trouble("");
    } catch (error) {
      buttons.forEach((b) => (b.disabled = false));
      trouble(error.message);
    }
  }
  turn.item.append(h("fieldset", { class: "votes" }, h("legend", {}, say("vote")), ...buttons), note);
}

async function ask(text) {
  trouble("");
  if (waiting) goOn(waiting, 0); // no vote was given: the left answer stands
  waiting = null;
  const asked = [...messages, { role: "user", content: text }];
  going = new AbortController();
  send.disabled = true;
  stop.hidden = false;
  let turn = null;
  try {
    const answer = await post("/chat/ask", { messages: asked }, going.signal);
    turn = { id: "", asked, texts: Array(sides).fill(""), ...show(text) };
    question.value = "";
    for await (const event of events(answer)) {
      if (event.turn) turn.id = event.turn;
      if (event.text) {
        turn.texts[event.side] += event.text;
        turn.words[event.side].append(event.text);
      }
      if (event.end === "length") turn.words[event.side].append(h("span", { class: "note" }, ` ${say("cut")}`));
      if (event.end === "error") turn.words[event.side].append(h("span", { class: "error" }, say("failed", { why: event.error })));
    }
    if (sides === 2) votes(turn);
  } catch (error) {
    if (error.name !== "AbortError") trouble(error instanceof TypeError ? say("lost") : error.message);
  } finally {
    if (turn) {
      if (sides === 2) waiting = turn;
      else goOn(turn, 0);
    }
    send.disabled = false;
    stop.hidden = true;
    going = null;
    question.focus();
  }
}

document.getElementById("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!going && question.value.trim()) ask(question.value);
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    event.target.form.requestSubmit();
  }
});
stop.addEventListener("click", () => going?.abort());
document.getElementById("new").addEventListener("click", () => {
  going?.abort();
  messages = [];
  waiting = null;
  turns.replaceChildren();
  trouble("");
  question.focus();
});
document.getElementById("reveal").addEventListener("click", async () => {
  const place = document.getElementById("names");
  try {
    const said = await (await post("/chat/reveal", {})).json();
    const lines = sides === 2 ? said.models.map((model, i) => say("reveal.wins", { model, wins: said.wins[i] })) : said.models;
    place.textContent = [...lines, ...(sides === 2 ? [say("reveal.rest", said)] : [])].join("\n");
    place.hidden = false;
  } catch (error) {
    trouble(error instanceof TypeError ? say("lost") : error.message);
  }
});
question.focus();
