// The annotator's page: who works here, on what, and the parts put together.
import { Api, Refused, Unreachable } from "./api.js";
import { Chrome } from "./chrome.js";
import { ActiveClock, Gate } from "./clock.js";
import { ACTIONS, showFeedback, showGuideline, showKeys, showRefused } from "./dialogs.js";
import { openDisk } from "./disk.js";
import { h, translate } from "./dom.js";
import { language, setLanguage } from "./i18n.js";
import { Keys } from "./keys.js";
import { Outbox } from "./outbox.js";
import { Queue } from "./queue.js";
import { Tabs } from "./tabs.js";
import { setTheme, storedTheme } from "./theme.js";
import { draw } from "./view.js";
import { Work } from "./work.js";

const IDLE_MS = 30000; // without a sign of life the person is not at work any more
const AHEAD = 6; // items kept ready until the campaign says how many
const stage = document.getElementById("stage");

class App {
  api = new Api();
  keys = new Keys();
  last = {}; // what the server told with the last items
  since = 0; // answers given since then, and those that waited then

  async start() {
    setTheme(storedTheme());
    const asked = this.api.me().then(
      (me) => ({ me }),
      (error) => ({ error }),
    ); // all three at the same time
    const [disk] = await Promise.all([openDisk(), setLanguage(document.body.dataset.language || "en")]);
    this.disk = disk;
    const me = await this.#who(await asked);
    keepPage();
    if (!me) return;
    this.api.user = me.name;
    if (me.language !== language()) await setLanguage(me.language);
    this.#chrome();
    translate(document);
    if (!this.disk.durable) this.chrome.banner("no_disk");
    const place = this.#place(me);
    if (place) await this.#work(me, place);
  }

  /** Who is signed in; from the disk when the server cannot be reached. */
  async #who({ me, error }) {
    if (me) {
      await this.#forgetOthers(me.name);
      this.disk.put("facts", { name: "me", me: { ...me, csrf: "" } }).catch(() => null); // a full disk: no start without the server
      return me;
    }
    if (error instanceof Refused && error.status === 401) return void location.assign("/login");
    const kept = error instanceof Unreachable || error.status >= 429 ? (await this.disk.get("facts", "me"))?.me : null;
    if (!kept) new Chrome(this.keys, { look: () => location.reload() }).empty(stage, "unreachable", { again: true });
    return kept;
  }

  /** Another person's items do not stay in this browser; their unsent votes do, until they sign in again. */
  async #forgetOthers(name) {
    for (const row of await this.disk.all("items")) if (row.user !== name) await this.disk.drop("items", row.handle);
  }

  #chrome() {
    this.chrome = new Chrome(this.keys, {
      undo: () => this.work?.undo(),
      keepOld: () => this.work?.keepOld(),
      takeBack: () => this.work?.takeBack(),
      guideline: () => this.guideline(),
      help: () => showKeys(this.keys, this.#asked()),
      refused: () => showRefused(this.outbox),
      look: () => this.queue?.fill(),
    });
  }

  /** The campaign that the address names, the only one there is, or null after a list to choose from was shown. */
  #place(me) {
    const asked = new URLSearchParams(location.search);
    const disputed = asked.has("disputed");
    const named =
      document.body.dataset.campaign || (me.campaigns.length === 1 && !me.roles.includes("adjudicator") ? me.campaigns[0].name : "");
    if (named) return { campaign: named, disputed };
    const link = (name, extra, words) => h("a", { class: "button", href: `/annotate?c=${encodeURIComponent(name)}${extra}` }, words);
    const rows = me.campaigns.map(({ name }) =>
      h(
        "li",
        {},
        link(name, "", h("b", { text: name })),
        me.roles.includes("annotator") ? null : link(name, "&disputed=1", h("span", { say: "disputed" })),
      ),
    );
    stage.replaceChildren(
      h(
        "section",
        { class: "empty card" },
        h("h2", { say: rows.length ? "choose_campaign" : "no_campaign" }),
        h("ul", { class: "campaigns" }, rows),
      ),
    );
    return null;
  }

  async #work(me, { campaign, disputed }) {
    const tabs = new Tabs(me.name);
    this.outbox = new Outbox(this.disk, this.api, me.name, tabs);
    const clock = new ActiveClock(IDLE_MS);
    const gate = new Gate(clock, this.chrome.gate);
    const hooks = {
      keys: this.keys,
      ready: () => this.work.ready(),
      send: (answer) => this.work.vote(answer),
      changed: () => null,
      announce: this.chrome.announce,
    };
    const redraw = (item, page) => draw(item, page, hooks);
    const fetch = (n) => this.#fetch(campaign, disputed, n);
    this.queue = new Queue({
      fetch,
      prepare: redraw,
      outbox: this.outbox,
      tabs,
      disk: this.disk,
      user: me.name,
      place: `${campaign}${disputed ? " disputed" : ""}`,
      ahead: AHEAD,
    });
    this.work = new Work({ stage, queue: this.queue, outbox: this.outbox, clock, gate, redraw, announce: this.chrome.announce });
    this.keys.listen(() => ({ ...this.work.actions(), guideline: () => this.guideline(), help: () => showKeys(this.keys, this.#asked()) }));
    this.#wire();
    this.outbox.start();
    await this.queue.fill();
    if (this.queue.offline && !this.work.current) await this.queue.restore();
  }

  #wire() {
    const { outbox, queue, work, chrome } = this;
    for (const name of ["change", "shown"]) work.addEventListener(name, () => this.#update());
    work.addEventListener("shown", () => work.current.drawn.keys !== this.keys.version && chrome.caps());
    outbox.addEventListener("change", () => this.#sent());
    work.addEventListener("answered", ({ detail }) => (this.since += detail.first ? 1 : 0));
    work.addEventListener("takenback", () => this.since--);
    work.addEventListener("feedback", ({ detail }) => showFeedback(detail, () => detail.blocking && work.goOn()));
    outbox.addEventListener("refused", () => chrome.announce("vote_refused"));
    outbox.addEventListener("signedout", ({ detail }) => this.#signedOut(detail));
    outbox.addEventListener("receipt", () => chrome.banner(this.disk.durable ? "" : "no_disk"));
    queue.addEventListener("empty", () => this.#nothing());
    queue.addEventListener("broken", () => chrome.announce("item_broken"));
    queue.addEventListener("offline", () => this.#offline());
    queue.addEventListener("refused", ({ detail }) => (detail.status === 401 ? this.#signedOut(detail.code) : this.#refusedItems(detail)));
    addEventListener("online", () => queue.fill());
  }

  async #fetch(campaign, disputed, n) {
    const { protocol, items, ...rest } = await (disputed ? this.api.adjudications(campaign, n) : this.api.items(campaign, n));
    this.last = rest;
    this.since = this.outbox.counts.answers;
    this.protocol = protocol;
    return { ...protocol, ...rest, items };
  }

  guideline() {
    const version = this.work?.current?.item.guideline || this.protocol?.guideline || "";
    if (!version) return this.chrome.announce("no_guideline");
    return showGuideline(() => this.#guidelineText(version));
  }

  /** A version never changes, so what was read once is there offline too. */
  async #guidelineText(version) {
    const name = `guideline ${version}`;
    try {
      const found = await this.api.guideline(version);
      this.disk.put("facts", { name, found }).catch(() => null);
      return found;
    } catch (error) {
      const kept = await this.disk.get("facts", name);
      if (!kept) throw error;
      return kept.found;
    }
  }

  /** The actions that have a key on this page, in the order of the table. */
  #asked() {
    const known = this.work?.current?.component.actions() ?? {};
    const always = ["reason", "undo", "take_back", "guideline", "help"];
    return ACTIONS.filter((name) => name in known || always.includes(name) || (name.startsWith("zoom") && this.work?.current?.panes.any));
  }

  #update() {
    const { counts, reachable } = this.outbox;
    const { canUndo, correcting, current } = this.work;
    const answered = (this.last.answered ?? 0) + this.since;
    this.chrome.update({ counts, reachable, answered, state: current?.page.state ?? this.last.state, canUndo, correcting });
  }

  /** Something went out, or waits: where there is no item, that is what is shown. */
  #sent() {
    this.#update();
    if (this.work.current || this.queue.length) return;
    if (this.outbox.counts.waiting) this.#nothing();
    else if (stage.querySelector(".sending, .offline")) this.queue.fill();
  }

  #nothing() {
    if (this.work.current || this.queue.length) return;
    const { end, paused, state } = this.last;
    if (this.outbox.counts.waiting) return this.chrome.empty(stage, this.outbox.reachable ? "sending" : "offline");
    if (paused) return this.chrome.empty(stage, "paused", { again: true });
    if (state === "failed") return this.chrome.empty(stage, "failed");
    if (end?.why === "done") return this.chrome.empty(stage, "done", { again: true, code: end.code, url: end.url });
    return this.chrome.empty(stage, "nothing_now", { again: true });
  }

  #offline() {
    this.outbox.reachable = false;
    this.#update();
    if (!this.work.current && !this.queue.length) this.chrome.empty(stage, "offline", { again: true });
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.queue.fill(), 5000);
  }

  #refusedItems(error) {
    if (!this.work.current && !this.queue.length)
      this.chrome.empty(stage, "refused_items", { values: { message: error.message }, again: true });
  }

  #signedOut(code) {
    const link = h("a", { href: "/login", target: "_blank", say: "sign_in" });
    this.chrome.banner(code === "other_account" ? "other_account" : "signed_out", link);
  }
}

/** Let the page open without the network. Where the browser has no workers (plain http), it opens when the server is there. */
async function keepPage() {
  try {
    await navigator.serviceWorker.register("/annotate/worker.js", { scope: "/annotate" });
    const { active } = await navigator.serviceWorker.ready;
    const files = performance.getEntriesByType("resource").map(({ name }) => name);
    active.postMessage([location.href, ...files.filter((name) => name.startsWith(`${location.origin}/static/`))]);
  } catch {
    // no worker: see above
  }
}

new App().start().catch((error) => {
  console.error(error);
  const message = document.createElement("p");
  message.className = "empty card";
  message.textContent = `The page could not start: ${error.message}`;
  stage.replaceChildren(message);
});
