// The view of one or several runs: tabs, what is new, and whose turn it is.
import { h } from "../site/dom.js";
import { about, comparison } from "./about.js";
import { checks } from "./checks.js";
import { Board } from "./curves.js";
import { head } from "./head.js";
import { follow, get, trouble } from "./net.js";
import { samples } from "./samples.js";
import { say, shortNames } from "./text.js";
import { told } from "./told.js";
import { tokens } from "./tokens.js";

const query = new URLSearchParams(location.search);
const runs = [...new Set(query.getAll("r"))];
const names = shortNames(runs);
const byId = (id) => document.getElementById(id);
const board = new Board(runs);
const parts = { samples, tokens, events: told, checks, compare: comparison, about };
const known = { rows: new Map(), events: [], left_out: 0, metrics: new Set() };
const opened = new Set();

function title() {
  const text = runs.length > 1 ? say("view.several", { n: runs.length }) : runs[0];
  byId("title").textContent = text;
  document.title = `${text} · Keel`;
  for (const link of document.querySelectorAll(".languages a")) {
    const wanted = new URLSearchParams(query);
    wanted.set("lang", link.dataset.language);
    link.href = `?${wanted}${location.hash}`;
  }
}

function heads() {
  const without = (run) => (runs.length > 1 ? `/view?${new URLSearchParams(runs.filter((r) => r !== run).map((r) => ["r", r]))}` : null);
  byId("heads").replaceChildren(...runs.map((run, i) => known.rows.has(run) && head(known.rows.get(run), names[i], (i % 8) + 1, without(run))).filter(Boolean));
}

function open(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const mine = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", mine ? "true" : "false");
    tab.tabIndex = mine ? 0 : -1;
    byId(`part-${tab.dataset.tab}`).hidden = !mine;
  }
  if (parts[name] && !opened.has(name)) {
    opened.add(name);
    parts[name](byId(`part-${name}`), { runs, names, known, zoom: (low, high) => { open("curves"); board.zoom(low, high); } }).catch(trouble);
  }
}

function tabs() {
  const every = [...document.querySelectorAll("[role=tab]")];
  byId("tab-compare").hidden = runs.length < 2;
  every.forEach((tab, i) => {
    tab.addEventListener("click", () => {
      history.replaceState(null, "", `#${tab.dataset.tab}`);
      open(tab.dataset.tab);
      title();
    });
    tab.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!move) return;
      let at = i;
      do at = (at + move + every.length) % every.length;
      while (every[at].hidden);
      every[at].focus();
      every[at].click();
    });
  });
  const [name, value] = decodeURIComponent(location.hash.slice(1)).split("=");
  if (value) byId("filter").value = value;
  open(every.some((tab) => tab.dataset.tab === name) ? name : "curves");
}

async function overview() {
  const view = await get("/api/view", { r: runs });
  for (const run of view.runs) known.rows.set(run.id, run);
  known.metrics = new Set([...view.charts.flatMap((c) => c.metrics), ...view.rest]);
  heads();
  board.build(view);
  if (view.runs.some((run) => run.read < 1)) setTimeout(() => overview().then((v) => v.runs.every((run) => run.read === 1) && board.again()).catch(trouble), 700);
  return view;
}

async function events() {
  const found = await get("/api/events", { r: runs });
  Object.assign(known, { events: found.events, left_out: found.left_out });
  retell();
}

function retell() {
  board.tell(known.events);
  if (opened.has("events")) told(byId("part-events"), { runs, names, known, zoom: (low, high) => { open("curves"); board.zoom(low, high); } });
}

let waiting = 0;
function later() {
  if (waiting) return;
  waiting = setTimeout(() => {
    waiting = 0;
    overview().then(() => board.again()).catch(trouble);
  }, 300);
}

title();
tabs();
overview()
  .then((view) => {
    events().catch(trouble);
    follow(
      runs,
      {
        steps({ run, rows }) {
          const fresh = rows.some((row) => Object.keys(row).some((name) => name !== "step" && !known.metrics.has(name)));
          if (fresh) return later();
          return board.take(run, rows);
        },
        again: later,
        row(row) {
          known.rows.set(row.id, { ...known.rows.get(row.id), ...row });
          heads();
        },
        events({ run, rows, again }) {
          if (again) return events().catch(trouble);
          known.events.push(...rows.map((row) => ({ run, ...row })));
          return retell();
        },
      },
      view.runs.map((run) => run.cursor).join("-"),
    );
  })
  .catch((error) => {
    trouble(error);
    byId("main-charts").replaceChildren(h("p", { class: "lead" }, say("curves.none")));
  });
