// The manager's page: one stream of events keeps it up to date; what is asked for goes through the API.
import { call, me } from "./call.js";
import { fill, h } from "./dom.js";
import { say } from "./numbers.js";
import { showAgreement, showAnswers, showAudit, showCycles, showDisputes, showJudges, showPeople, showProgress } from "./panels.js";
import { showHours } from "./plot.js";

const { campaign } = JSON.parse(document.getElementById("about").textContent);
const path = `/api/manage/${encodeURIComponent(campaign)}`;
const $ = (id) => document.getElementById(id);
let last = null;
let accounts = [];
let myself = "";

function trouble(error) {
  $("trouble").hidden = !error;
  $("trouble").textContent = error ? [error.message, error.todo].filter(Boolean).join(" · ") : "";
  if (error?.status === 401) location.assign("/login");
}

async function doing(job) {
  try {
    await job();
    trouble(null);
  } catch (error) {
    trouble(error);
  }
}

function show(said) {
  last = said;
  const { counts, measures } = said;
  $("state").textContent = say(counts.paused ? "manage.paused" : "manage.running");
  $("state").classList.toggle("warned", counts.paused);
  $("pause").textContent = say(counts.paused ? "manage.resume" : "manage.pause");
  $("pause").disabled = false;
  showProgress(counts, measures);
  if (!measures.agreement) return;
  showHours(measures.hours);
  showAgreement(measures.agreement);
  showJudges(measures.judges, counts.by_judge);
  showAnswers(measures.answers, measures.not_blind);
  showPeople(accounts, measures.people, act);
  showDisputes(measures.disputes);
  showCycles(measures.cycles);
}

async function refresh() {
  const [people, log] = await Promise.all([call(`${path}/people`), call("/api/manage-audit?n=50")]);
  accounts = people.people.map((a) => ({ ...a, me: a.name === myself }));
  if (last) showPeople(accounts, last.measures.people ?? [], act);
  showAudit(log.audit);
}

function listen() {
  const source = new EventSource(`${path}/live`);
  source.onopen = () => ($("live").textContent = say("live.on"));
  source.onerror = () => {
    $("live").textContent = say("live.off");
    if (source.readyState === EventSource.CLOSED) {
      setTimeout(() => doing(async () => { await me(); listen(); }), 3000);
    }
  };
  source.onmessage = (event) => {
    const said = JSON.parse(event.data);
    const joined = JSON.stringify(said.counts.members) !== JSON.stringify(last?.counts.members);
    show(said);
    if (joined) doing(refresh);
  };
}

function ask(title, text, yes, why) {
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-yes").textContent = yes;
  $("ask-why").value = "";
  $("ask-why").required = why;
  $("ask-why").hidden = $("ask-why-label").hidden = !why;
  $("ask").returnValue = "no";
  $("ask").showModal();
  return new Promise((done) => {
    $("ask").addEventListener("close", () => done($("ask").returnValue === "yes" ? $("ask-why").value.trim() || true : null), { once: true });
  });
}

async function act(what, account) {
  document.activeElement?.blur();
  if (what === "access") {
    const disabled = !account.disabled;
    const sure = !disabled || (await ask(say("close.title", { name: account.name }), say("close.text"), say("people.close"), false));
    if (sure) await doing(async () => { await call("/api/manage/access", { name: account.name, disabled }); await refresh(); });
    return;
  }
  const why = await ask(say("retract.title", { name: account.name }), say("retract.text"), say("people.retract"), true);
  if (why) await doing(async () => { await call(`${path}/retract`, { annotator: account.name, why }); await refresh(); });
}

$("pause").addEventListener("click", () => doing(async () => { await call(`${path}/pause`, { paused: !last.counts.paused }); show({ ...last, counts: { ...last.counts, paused: !last.counts.paused } }); await refresh(); }));

$("leave").addEventListener("click", () => doing(async () => { await call("/api/logout", {}); location.assign("/login"); }));

$("invite").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target.elements;
  doing(async () => {
    const made = await call(`${path}/invitations`, { role: form.role.value, uses: Number(form.uses.value), days: Number(form.days.value) });
    const copy = h("button", { type: "button", class: "small", onclick: () => navigator.clipboard.writeText(made.link).then(() => (copy.textContent = say("copied"))) }, say("copy"));
    fill("links", h("p", { class: "link" }, h("code", {}, made.link), copy), h("p", { class: "note" }, say("manage.link_note", { role: say(`role.${made.role}`), uses: made.uses })));
    await refresh();
  });
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => last?.measures.hours && showHours(last.measures.hours));
addEventListener("resize", () => last?.measures.hours && showHours(last.measures.hours));

doing(async () => {
  myself = (await me()).name;
  await refresh();
  listen();
});
