// Connects the page with the server's events and the user's actions. Names, reasons and contracts come from other people: they are
// inserted as text nodes only (dom.js).

import { adminTools, unblock } from "./admin.js";
import * as api from "./api.js";
import { byId, copy, dialog, guarded, h, keysDialog, setText } from "./dom.js";
import { clock, plural } from "./format.js";
import { show } from "./lists.js";

let about = {};
let rows = new Map(); // by id
let arriving = null; // the rows of a new connection, until it has sent all
let locked = null; // the dialog that says so
let typed = "";

const of = (kind) => [...rows.values()].filter((row) => row.kind === kind);
const perMinute = (count) => `${count.toLocaleString("en")}/min`;
const failed = (count) => (count ? h("span", { class: "bad" }, `${count.toLocaleString("en")} failed`) : null);
const matches = (...words) => !typed || words.some((word) => word.toLowerCase().includes(typed));
const ms = (count) => (count < 1 ? "< 1 ms" : `${count.toLocaleString("en")} ms`);
const fact = (text) => (text ? h("span", {}, text) : null);

function span(seconds) {
  if (seconds < 60) return "less than a minute";
  if (seconds < 3600) return plural(Math.floor(seconds / 60), "minute");
  return seconds < 86400 ? plural(Math.floor(seconds / 3600), "hour") : plural(Math.floor(seconds / 86400), "day");
}

function since(text) {
  const at = Date.parse(text) / 1000;
  return h("time", { datetime: text, title: new Date(at * 1000).toLocaleString() }, `for ${span(Math.max(0, Date.now() / 1000 - at))}`);
}

const until = (text) => h("time", { datetime: text }, `until ${new Date(text).toLocaleString()}`);

// What people do with an entry: take its contract along, or open the mesh's entry with it.
function invite(what, { contract, join }) {
  const signed = about.signed_contracts_only;
  const text = signed ? contract : `X-devroute: ${contract}`;
  const more = signed ? "; the policy wants it signed: devroute sign" : "";
  return [
    h("button", { type: "button", "data-do": "copy", "aria-label": `Copy the ${signed ? "contract" : "header"} for ${what}`, title: text, onclick: () => copy(text, signed ? "contract" : "header", more) }, signed ? "Copy contract" : "Copy header"),
    join && !signed ? h("a", { class: "button", "data-do": "join", href: join, target: "_blank", rel: "noopener noreferrer", "aria-label": `Join ${what} in this browser` }, "Join") : null,
  ];
}

function services() {
  const groups = new Map();
  const add = (service, entry) => groups.set(service, [...(groups.get(service) ?? []), entry]);
  for (const laptop of of("laptop")) {
    for (const each of laptop.services) {
      if (!matches(each.service, laptop.laptop, laptop.subject)) continue;
      const key = `${laptop.id} ${each.service}`;
      add(each.service, { key, name: laptop.laptop, subject: laptop.subject, ms: laptop.round_trip_ms, ...each });
    }
  }
  for (const { id, service, target, requests, failed } of of("target")) {
    if (matches(service, target)) add(service, { key: id, name: target, requests, failed });
  }
  const sum = (entries, name) => entries.reduce((total, each) => total + each[name], 0);
  show(byId("services"), [...groups].sort().map(([service, entries]) => ({
    key: service,
    row: entries,
    make: () => h("li", { class: "group" },
      h("h3", {}, service, h("small", {}, perMinute(sum(entries, "requests")), " ", failed(sum(entries, "failed")))),
      h("ul", {}, entries.map((each) => h("li", { class: "entry", tabindex: "-1", "data-key": each.key },
        h("span", { class: "name" }, each.name),
        h("span", { class: "facts" }, each.subject && each.subject !== each.name ? fact(each.subject) : null, fact(perMinute(each.requests)), failed(each.failed),
          each.ms === null || each.ms === undefined ? null : h("span", { title: "round trip to the laptop" }, ms(each.ms)),
          each.address ? fact(each.address) : null, each.shadow ? h("span", { class: "tag" }, "shadow") : null),
        h("span", { class: "tools" }, each.contract ? invite(`${service} of ${each.name}`, each) : null))))),
  })));
  return groups.size;
}

function laptops() {
  const found = of("laptop").filter((each) => matches(each.laptop, each.subject, ...each.services.map(({ service }) => service)));
  show(byId("laptops"), found.map((each) => ({
    key: each.id,
    row: [each, about.admin],
    make: () => h("li", { class: "entry", tabindex: "-1", "data-key": each.id },
      h("span", { class: "name" }, each.laptop),
      h("span", { class: "facts" }, fact(each.subject), since(each.since), fact(`devroute ${each.agent}`),
        each.round_trip_ms === null ? null : h("span", { title: "round trip to the laptop" }, ms(each.round_trip_ms))),
      h("span", { class: "tools" }, invite(each.laptop, each), about.admin ? adminTools(each, about.you) : null),
      h("ul", { class: "services", "aria-label": `Services of ${each.laptop}` }, each.services.map(({ service }) => h("li", {}, service)))),
  })));
  return found.length;
}

function fallbacks() {
  const found = of("fallback").filter((each) => matches(each.service, each.target)).sort((a, b) => b.last - a.last);
  show(byId("fallbacks"), found.map((each) => ({
    key: each.id,
    row: each,
    make: () => h("li", { class: "entry", tabindex: "-1", "data-key": each.id },
      h("span", { class: "name" }, each.service, h("span", { class: "arrow" }, " → "), each.target),
      h("span", { class: "facts" }, h("time", { datetime: new Date(each.last * 1000).toISOString() }, clock(each.last)), fact(each.code), each.times > 1 ? fact(`${each.times.toLocaleString("en")} times`) : null),
      h("span", { class: "reason" }, each.reason)),
  })));
  return found.length;
}

function contracts() {
  const targets = (each) => Object.entries(each.targets).map(([service, target]) => `${service} → ${target}`).join(", ");
  const found = of("contract").filter((each) => matches(each.name, each.owner, targets(each)));
  show(byId("contracts"), found.map((each) => ({
    key: each.id,
    row: each,
    make: () => h("li", { class: "entry", tabindex: "-1", "data-key": each.id },
      h("span", { class: "name" }, each.name),
      h("span", { class: "facts" }, fact(each.owner), until(each.until)),
      h("span", { class: "tools" }, invite(each.name, each)),
      h("code", {}, targets(each))),
  })));
  return found.length;
}

function blocks() {
  byId("blocked").hidden = !about.admin;
  const found = of("block").filter((each) => matches(each.subject));
  show(byId("blocks"), found.map((each) => ({
    key: each.id,
    row: each,
    make: () => h("li", { class: "entry", tabindex: "-1", "data-key": each.id },
      h("span", { class: "name" }, each.subject),
      h("span", { class: "facts" }, until(each.until), fact(`by ${each.by}`)),
      h("span", { class: "tools" }, h("button", { type: "button", "data-do": "unblock", onclick: () => unblock(each.subject) }, "Unblock")),
      each.reason ? h("span", { class: "reason" }, each.reason) : null),
  })));
  return found.length;
}

const PARTS = {
  services: [services, "No service is on a laptop.", "No service matches."],
  laptops: [laptops, "No laptop is online. Start one with: devroute up SERVICE=PORT", "No laptop matches."],
  fallbacks: [fallbacks, "No request fell back to its service.", "No fallback matches."],
  contracts: [contracts, "No contract has a name.", "No contract matches."],
  blocks: [blocks, "No one is blocked.", "No one matches."],
};

function render() {
  for (const [name, [draw, empty, unmatched]] of Object.entries(PARTS)) {
    const count = draw();
    byId(`no-${name}`).hidden = count > 0;
    setText(byId(`no-${name}`), typed ? unmatched : empty);
  }
  const all = of("laptop");
  const targets = [...all.flatMap((each) => each.services), ...of("target")];
  const total = (name) => targets.reduce((sum, each) => sum + each[name], 0);
  const parts = [`${plural(all.length, "laptop")} online`, perMinute(total("requests")), `${total("failed").toLocaleString("en")} failed`];
  setText(byId("summary"), [...parts, about.replicas > 1 ? `${about.replicas} replicas` : ""].filter(Boolean).join(" · "));
  document.title = `${all.length} online · devroute`;
}

function showState(state) {
  byId("live").dataset.state = state;
  setText(byId("live").querySelector("b"), { live: "live", lost: "reconnecting", locked: "closed", connecting: "connecting" }[state]);
  if (state === "locked") {
    locked ??= dialog("This page is closed", h("p", {}, "This browser's session has ended. Run devroute dashboard, and open the link that it prints; then this page goes on by itself."), []);
  } else if (state === "live") {
    locked?.close();
    locked = null;
  }
}

api.follow({
  hello: (data) => {
    about = data;
    setText(byId("who"), `${data.you}${data.admin ? ", administrator" : ""}`);
    arriving = new Map();
  },
  rows: ({ changed, gone, synced }) => {
    const into = arriving ?? rows;
    for (const id of gone) into.delete(id);
    for (const row of changed) into.set(row.id, row);
    if (!synced) return;
    rows = into;
    arriving = null;
    render();
  },
  state: showState,
});

function move(by) {
  const entries = [...document.querySelectorAll(".entry")];
  const at = entries.indexOf(document.activeElement?.closest(".entry"));
  entries[Math.min(entries.length - 1, Math.max(0, at < 0 ? 0 : at + by))]?.focus();
}

const act = (what) => document.activeElement?.closest(".entry")?.querySelector(`[data-do="${what}"]`)?.click();
const KEYS = [
  ["j k", "next and previous entry"], ["c", "copy the header of the entry"], ["o", "open the mesh with the entry (join)"],
  ["/", "filter by name"], ["Esc", "close the dialog, or clear the filter"], ["?", "show these keys"],
];

const help = () => keysDialog(KEYS);

const ON = { j: () => move(1), k: () => move(-1), c: () => act("copy"), o: () => act("join"), "/": () => byId("search").focus(), "?": help };

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || byId("dialog").open) return;
  if (key === "Escape") filter("");
  else if (target.closest("input, textarea, select") || !Object.hasOwn(ON, key)) return;
  else ON[key]();
  event.preventDefault();
});

function filter(text) {
  if (byId("search").value !== text) byId("search").value = text;
  typed = text.trim().toLowerCase();
  render();
}

byId("search").addEventListener("input", (event) => filter(event.target.value));
document.querySelector("form.filters").addEventListener("submit", (event) => event.preventDefault());
byId("help").addEventListener("click", help);
byId("logout").addEventListener("click", guarded(async () => {
  await api.logout();
  showState("locked");
}));
setInterval(render, 30_000); // "for 3 minutes"
