// Connects the parts of the page with the server's events and the user's actions.

import * as api from "./api.js";
import { openCompare } from "./compare.js";
import { Detail } from "./detail.js";
import { byId, copy, dialog, guarded, h, notice, setText } from "./dom.js";
import { empty } from "./empty.js";
import { Exchanges } from "./exchanges.js";
import { Filters } from "./filters.js";
import { plural } from "./format.js";
import { heldCount, openHeld, showHeld } from "./held.js";
import { help, keyboard } from "./keys.js";
import { List } from "./list.js";
import { MessagesView } from "./messages.js";
import { importFile, openEdit } from "./replay.js";
import { knownServices, openRules, ruleFor, showRules, switchRules } from "./rules.js";
import { ShadowView } from "./shadow.js";
import { SideView } from "./side.js";
import { splitter } from "./splitter.js";
import { outgoing } from "./words.js";

const exchanges = new Exchanges();
let about = {};
let paused = false;
let locked = null; // the dialog that says so

async function send(id, edits) {
  const { id: made } = await api.replay(id, edits);
  following = made;
  if (exchanges.get(made)) list.activate(made);
  notice(`#${id} was replayed as #${made}`);
}
let following = null; // the replay to select as soon as it is in the list

// The older one is left, whichever was chosen first.
const compareTwo = guarded((a, b) => {
  const age = (id) => exchanges.get(id)?.started ?? 0;
  return age(a) < age(b) || (age(a) === age(b) && a < b) ? openCompare(a, b) : openCompare(b, a);
});

// Marks an exchange; with another one marked, compares the two.
const compare = guarded(async (id) => {
  if (list.marked === null || !exchanges.get(list.marked)) {
    list.mark(id);
    return notice(`#${id} is marked: select another request and press c to compare`);
  }
  const other = list.marked;
  list.mark(null);
  if (other !== id) await compareTwo(other, id);
});

// `to`: "app" or "mesh".
const copyCurl = (to) => guarded(async (id) => {
  const { command, secrets, to: url } = await api.curl(id, to);
  const missing = secrets.length ? `; what was redacted comes from ${secrets.map((name) => `$${name}`).join(", ")}` : "";
  await copy(command, `curl to ${url}`, missing);
});

const pause = guarded(async () => showPaused((await api.pause(!paused)).paused));
const sendable = ({ kind }) => kind !== "websocket" && kind !== "upgrade";

const commands = [
  { key: "r", words: "replay the request", button: "Replay", applies: sendable, run: guarded((id) => send(id)) },
  { key: "e", words: "edit and replay the request", button: "Edit and replay", applies: sendable, run: guarded((id) => openEdit(id, send)) },
  { key: "y", words: "copy the request as a curl command, to the app or the port on this laptop", button: "Copy as curl", applies: sendable, run: copyCurl("app") },
  { key: "Y", words: "copy the request as a curl command, through the mesh", button: "curl for the mesh", applies: (exchange) => sendable(exchange) && !outgoing(exchange), run: copyCurl("mesh") },
  { key: "c", words: "mark the request; on another one, compare the two", button: "Compare", run: compare },
  { key: "m", words: "make a rule from the request", button: "Make a rule", run: guarded((id) => ruleFor(exchanges.get(id))) },
  { key: "l", words: "list the rules", forPage: true, run: openRules },
  { key: "o", words: "all rules off, or on again", forPage: true, run: guarded(switchRules) },
  { key: "b", words: "edit what is held at a breakpoint", forPage: true, run: openHeld },
  { key: "p", words: "pause or resume recording", forPage: true, run: pause },
];

const actions = {
  compareTwo,
  choose: (id) => (exchanges.get(id) ? list.activate(id) : notice(`#${id} is no longer stored`, "bad")),
  search: (text) => filters.set(text),
  filter: (field, value) => filters.toggle(field, value),
  back: () => {
    document.body.dataset.view = "list";
    list.viewport.focus();
  },
};

const views = [new MessagesView(), new SideView("response"), new SideView("request"), new ShadowView()];
const detail = new Detail(exchanges, { views, commands, actions });
const list = new List(exchanges, {
  choose: (id) => {
    document.body.dataset.view = "detail";
    detail.show(id);
  },
  compareWith: compareTwo,
});
const filters = new Filters(exchanges);
keyboard({ list, detail, commands, actions });
splitter(byId("split"));
detail.clear();

exchanges.addEventListener("change", () => {
  const none = exchanges.shown.length === 0;
  byId("empty").hidden = !none;
  const kind = none ? (exchanges.all.size ? "filtered" : "empty") : "";
  if (byId("empty").dataset.kind !== kind) {
    byId("empty").dataset.kind = kind;
    byId("empty").replaceChildren(...(none ? empty(about, kind === "filtered", () => filters.set("")) : []).filter(Boolean));
  }
  showTitle();
  if (list.active !== null && !detail.changed(list.current)) list.deactivate();
  if (following !== null && exchanges.get(following)) {
    const id = following;
    following = null;
    list.activate(id);
  }
});

function showTitle() {
  const held = heldCount() ? `(${heldCount()} held) ` : "";
  document.title = `${held}${exchanges.all.size ? `${exchanges.all.size} · ` : ""}devroute inspector`;
}

function takeRules(data) {
  showRules(data);
  showHeld(data);
  showTitle();
}

function showSkipped(count) {
  byId("skipped").hidden = count === 0;
  setText(byId("skipped"), `${count.toLocaleString("en")} not recorded`);
}

function showPaused(now) {
  paused = now;
  byId("pause").setAttribute("aria-pressed", now);
  setText(byId("pause"), now ? "Resume" : "Pause");
  showState(byId("live").dataset.state === "lost" ? "lost" : "live");
}

function showState(state) {
  const shown = state === "live" && paused ? "paused" : state;
  const live = byId("live");
  live.dataset.state = shown;
  setText(live.querySelector("b"), { live: "live", paused: "paused", lost: "reconnecting", locked: "closed", connecting: "connecting" }[shown]);
  if (shown === "locked") {
    if (!locked) locked = dialog("This page is closed", h("p", {}, "This browser's session has ended. Open the link that devroute up prints; then this page goes on by itself."), []);
  } else if (shown !== "lost") {
    locked?.close();
    locked = null;
  }
}

api.follow({
  hello: (data) => {
    about = data.about;
    setText(byId("who"), about.name ? `${about.name} · ${Object.keys(about.services).join(", ")}` : "");
    knownServices(Object.keys(about.services), Object.keys(about.reached));
    delete byId("empty").dataset.kind;
    exchanges.resync();
    showSkipped(0);
    showPaused(data.paused);
    takeRules(data.rules);
  },
  batch: (data) => {
    exchanges.take(data);
    if (data.skipped !== undefined) showSkipped(data.skipped);
    if (data.cleared) {
      list.active = null;
      list.mark(null);
      detail.clear();
    }
    if (data.paused !== undefined && data.paused !== paused) showPaused(data.paused);
  },
  rules: takeRules,
  synced: () => exchanges.synced(),
  state: showState,
});

byId("pause").addEventListener("click", pause);
byId("rules").addEventListener("click", openRules);
byId("help").addEventListener("click", () => help(commands));
byId("import").addEventListener("click", () => importFile(byId("file")));
byId("clear").addEventListener("click", () => {
  const { close } = dialog("Delete all requests?", h("p", {}, `${plural(exchanges.all.size, "request")} will be deleted. Export them first if you may need them.`), [
    h("button", { type: "button", onclick: () => close(), autofocus: true }, "Cancel"),
    h("button", { type: "button", class: "danger", id: "clear-yes", onclick: guarded(async () => {
      await api.clear();
      close();
    }) }, "Delete"),
  ]);
});
