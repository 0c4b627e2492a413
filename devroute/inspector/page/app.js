// Puts the parts together: what comes from the server, what the engineer does.

import * as api from "./api.js";
import { openCompare } from "./compare.js";
import { Detail } from "./detail.js";
import { byId, copy, dialog, h, notice, say } from "./dom.js";
import { empty } from "./empty.js";
import { Exchanges } from "./exchanges.js";
import { Filters } from "./filters.js";
import { plural } from "./format.js";
import { help, keyboard } from "./keys.js";
import { List } from "./list.js";
import { importFile, openEdit } from "./replay.js";
import { splitter } from "./splitter.js";

const exchanges = new Exchanges();
let about = {};
let paused = false;

// Whatever fails is said, and nothing else happens.
const careful = (action) => async (...values) => {
  try {
    return await action(...values);
  } catch (error) {
    notice(error.message, "bad");
  }
};

async function send(id, edits) {
  const { id: made } = await api.replay(id, edits);
  following = made;
  if (exchanges.get(made)) list.activate(made);
  notice(`#${id} was sent again, as #${made}`);
}
let following = null; // a replay that is to be shown as soon as the list has it

const actions = {
  replay: careful((id) => send(id)),
  edit: careful((id) => openEdit(id, send)),
  curl: careful(async (id) => copy(await api.curl(id), "curl command")),
  compareTwo: careful(openCompare),
  compare: careful(async (id) => {
    if (list.marked === null || !exchanges.get(list.marked)) {
      list.mark(id);
      return notice(`#${id} is marked; choose another one and press c to compare`);
    }
    const left = list.marked;
    list.mark(null);
    if (left !== id) await openCompare(left, id);
  }),
  choose: (id) => (exchanges.get(id) ? list.activate(id) : notice(`#${id} is no longer kept`, "bad")),
  pause: careful(async () => showPaused((await api.pause(!paused)).paused)),
  search: (text) => filters.search(text),
  back: () => {
    document.body.dataset.view = "list";
    list.viewport.focus();
  },
};

const detail = new Detail(exchanges, actions);
const list = new List(exchanges, {
  choose: (id) => {
    document.body.dataset.view = "detail";
    detail.show(id);
  },
  compareWith: actions.compareTwo,
});
const filters = new Filters(exchanges);
keyboard({ list, detail, actions });
splitter(byId("split"));
detail.nothing();

exchanges.addEventListener("change", () => {
  const none = exchanges.shown.length === 0;
  byId("empty").hidden = !none;
  const kind = none ? (exchanges.all.size ? "filtered" : "empty") : "";
  if (byId("empty").dataset.kind !== kind) {
    byId("empty").dataset.kind = kind;
    byId("empty").replaceChildren(...(none ? empty(about, kind === "filtered", () => filters.clear()) : []).filter(Boolean));
  }
  document.title = exchanges.all.size ? `${exchanges.all.size} · devroute inspector` : "devroute inspector";
  if (list.active !== null) detail.changed(exchanges.get(list.active));
  if (following !== null && exchanges.get(following)) {
    const id = following;
    following = null;
    list.activate(id);
  }
});

function showSkipped(count) {
  byId("skipped").hidden = count === 0;
  say(byId("skipped"), `${count.toLocaleString("en")} not recorded`);
}

function showPaused(now) {
  paused = now;
  byId("pause").setAttribute("aria-pressed", now);
  say(byId("pause"), now ? "Resume" : "Pause");
  showState(byId("live").dataset.state === "lost" ? "lost" : "live");
}

function showState(state) {
  const shown = state === "live" && paused ? "paused" : state;
  const live = byId("live");
  live.dataset.state = shown;
  say(live.querySelector("b"), { live: "live", paused: "paused", lost: "reconnecting", locked: "closed", connecting: "connecting" }[shown]);
  if (shown === "locked") {
    dialog("This page is closed", h("p", {}, "devroute up was restarted, or this browser's session is over. Open the link that devroute up prints now."), []);
  }
}

api.follow({
  hello: (said) => {
    about = said.about;
    say(byId("who"), about.name ? `${about.name} · ${Object.keys(about.services).join(", ")}` : "");
    delete byId("empty").dataset.kind;
    exchanges.resync();
    showSkipped(0);
    showPaused(said.paused);
  },
  batch: (said) => {
    exchanges.take(said);
    if (said.skipped !== undefined) showSkipped(said.skipped);
    if (said.cleared) {
      list.active = null;
      list.mark(null);
      detail.nothing();
    }
    if (said.paused !== undefined && said.paused !== paused) showPaused(said.paused);
  },
  synced: () => exchanges.synced(),
  state: showState,
});

byId("pause").addEventListener("click", actions.pause);
byId("help").addEventListener("click", help);
byId("import").addEventListener("click", () => importFile(byId("file")));
byId("clear").addEventListener("click", () => {
  const { close } = dialog("Forget everything?", h("p", {}, `${plural(exchanges.all.size, "exchange")} will be gone for good. Export first, if you may need them.`), [
    h("button", { type: "button", onclick: () => close(), autofocus: true }, "Keep"),
    h("button", { type: "button", class: "danger", id: "clear-yes", onclick: careful(async () => {
      await api.clear();
      close();
    }) }, "Forget"),
  ]);
});
