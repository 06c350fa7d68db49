// The panels of the manager's page: from what the server measured to elements.
import { fill, h, table } from "./dom.js";
import { hours, interval, percent, rate, say, seconds, when, whole } from "./numbers.js";

export function showProgress(counts, measures) {
  const share = counts.items ? counts.done / counts.items : 0;
  const f = measures.forecast;
  const members = ["training", "qualification", "passed", "failed"].filter((s) => counts.members[s]);
  fill(
    "progress",
    tile(say("tile.items"), `${whole(counts.done)} / ${whole(counts.items)}`, meter(share)),
    tile(say("tile.votes"), whole(counts.votes), say("tile.wanted", { n: counts.wanted })),
    tile(say("tile.forecast"), f && f.missing ? hours(f.hours) : f ? say("tile.done") : "–", f && f.per_hour !== null ? say("tile.rate", { n: whole(Math.round(f.per_hour)) }) : ""),
    tile(say("tile.leases"), whole(counts.leases), say("tile.leases_note")),
    tile(say("tile.disputed"), whole(counts.disputed), say("tile.disputed_note")),
    tile(say("tile.people"), whole(members.reduce((sum, s) => sum + counts.members[s], 0)), members.map((s) => `${whole(counts.members[s])} ${say(`state.${s}`)}`).join(" · ")),
  );
}

function tile(name, value, note) {
  return h("div", { class: "tile" }, h("span", { class: "name" }, name), h("b", {}, value), typeof note === "string" ? h("span", { class: "note" }, note) : note);
}

function meter(share) {
  return h("span", { class: "meter", role: "img", "aria-label": percent(share) }, h("i", { style: { width: `${100 * share}%` } }));
}

export function showAgreement(rows) {
  const raw = rows.some((r) => r.name === "raw" && r.n);
  const shown = rows.filter((r) => r.n && !(raw && r.name === "likeness")); // of pairs the two are the same
  if (!shown.length) return fill("agreement", h("p", { class: "soft" }, say("manage.too_early")));
  const line = (r) => {
    const kappa = r.verdict !== "" && r.name !== "raw";
    const marks = kappa ? [0, 0.4, 0.6] : [];
    const verdict = kappa ? h("span", { class: `verdict ${r.verdict.replace(" ", "-")}` }, say(`verdict.${r.verdict}`), r.sure ? "" : " ?") : "";
    return h("tr", {}, h("th", { scope: "row" }, say(`agreement.${r.name}`)), h("td", {}, interval(r.value, r.low, r.high, kappa ? -0.2 : 0, 1, marks)), h("td", {}, verdict), h("td", { class: "number" }, whole(r.n)));
  };
  fill("agreement", table([say("agreement.measure"), say("agreement.value"), say("agreement.verdict"), say("agreement.items")], shown.map(line)));
}

export function showJudges(rows, labelled) {
  const line = (r) =>
    h("tr", {}, h("th", { scope: "row" }, h("bdi", {}, r.judge), h("span", { class: "note" }, say(`judges.${r.which}`))), h("td", {}, interval(r.value, r.low, r.high, 0, 1)), h("td", { class: "number" }, r.decided_n ? `${percent(r.decided)} · ${whole(r.decided_n)}` : "–"), h("td", { class: "number" }, whole(r.n)));
  const heads = [say("judges.judge"), say("judges.value"), say("judges.decided"), say("agreement.items")];
  const note = h("p", { class: "note" }, say("judges.note"), labelled ? ` ${say("judges.labelled", { n: whole(labelled) })}` : "");
  fill("judges", ...(rows.length ? [table(heads, rows.map(line))] : []), ...(rows.length || labelled ? [note] : []));
}

export function showAnswers(answers, notBlind) {
  const all = Object.values(answers).reduce((a, b) => a + b, 0);
  const known = Object.entries(answers).sort((a, b) => b[1] - a[1]);
  if (!all) return fill("answers", h("p", { class: "soft" }, say("manage.too_early")));
  fill(
    "answers",
    ...known.map(([name, n]) => h("div", { class: "share" }, h("span", {}, say(`answer.${name}`)), h("span", { class: "meter" }, h("i", { style: { width: `${(100 * n) / all}%` } })), h("span", { class: "number" }, `${percent(n / all)} · ${whole(n)}`))),
  );
  fill("blind", notBlind ? say("manage.not_blind", { n: whole(notBlind) }) : "");
}

const HEADS = ["person", "votes", "gold", "seconds", "left", "alike", "drift", "same", "evidence", "last", "access"];

export function showPeople(accounts, measured, act) {
  const by = new Map(measured.map((w) => [w.annotator, w]));
  const named = new Set(accounts.map((a) => a.name));
  const rest = measured.filter((w) => !named.has(w.annotator)).map((w) => ({ name: w.annotator, role: "", state: "", code: "", disabled: false, outside: true }));
  const rows = [...accounts, ...rest].map((a) => person(a, by.get(a.name), act));
  if (!rows.length) return fill("people", h("p", { class: "soft" }, say("manage.nobody")));
  fill("people", table(HEADS.map((k) => ({ text: say(`people.${k}`), title: say(`people.${k}.title`) })), rows));
}

function person(a, w, act) {
  const about = [a.role && a.role !== "annotator" ? say(`role.${a.role}`) : "", a.state ? say(`state.${a.state}`) : "", a.disabled ? say("people.closed") : ""].filter(Boolean).join(" · ");
  const name = h("th", { scope: "row" }, h("bdi", {}, a.name), h("span", { class: "note" }, about), a.code ? h("span", { class: "note code", title: say("people.code") }, a.code) : "");
  const measures = w
    ? [whole(w.votes), rate(w.gold), seconds(w.seconds), rate(w.left, 0, 1, [0.5]), percent(w.alike), drift(w), rate(w.same), evidence(w), when(w.last)]
    : Array(9).fill("");
  const buttons = a.outside || a.me
    ? ""
    : h(
        "span",
        { class: "buttons" },
        h("button", { type: "button", class: "small", onclick: () => act("access", a) }, say(a.disabled ? "people.open" : "people.close")),
        w ? h("button", { type: "button", class: "small danger", onclick: () => act("retract", a) }, say("people.retract")) : "",
      );
  return h("tr", { class: w?.alarm ? "alarmed" : "" }, name, ...measures.map((m) => h("td", {}, m)), h("td", {}, buttons));
}

function drift(w) {
  if (w.alike_before === null || w.alike_after === null) return h("span", { class: "soft" }, "–");
  const change = w.alike_after - w.alike_before;
  return h("span", { class: change < -0.15 ? "bad" : "" }, `${percent(w.alike_before)} → ${percent(w.alike_after)}`);
}

function evidence(w) {
  return w.alarm ? h("span", { class: "verdict poor", title: say("people.alarm", { n: w.alarm }) }, say(`why.${w.why}`)) : h("span", { class: "soft" }, "–");
}

export function showDisputes(rows) {
  if (!rows.length) return fill("disputes", h("p", { class: "soft" }, say("manage.no_disputes")));
  fill(
    "disputes",
    ...rows.map((d) => h("details", {}, h("summary", {}, h("b", {}, percent(d.disagreement)), " ", h("span", { dir: "auto" }, d.prompt || d.task_id), h("span", { class: "note" }, ` ${say("disputes.votes", { n: d.votes })}`)), h("ol", {}, ...d.texts.map((t) => h("li", { dir: "auto" }, t))))),
  );
}

export function showCycles(rows) {
  if (!rows.length) return fill("cycles", h("p", { class: "soft" }, say("manage.no_cycles")));
  fill("cycles", ...rows.map((c) => h("details", {}, h("summary", {}, c.prompt), h("ol", {}, ...c.texts.map((t) => h("li", { dir: "auto" }, t))))));
}

export function showAudit(rows) {
  const detail = (d) => Object.entries(d).map(([k, v]) => `${k}: ${v}`).join(", ");
  fill("audit", table([say("audit.when"), say("audit.who"), say("audit.what"), say("audit.detail")], rows.map((r) => h("tr", {}, h("td", { class: "number" }, when(r.at)), h("td", {}, h("bdi", {}, r.who)), h("td", {}, r.what), h("td", {}, h("bdi", {}, detail(r.detail)))))));
}
