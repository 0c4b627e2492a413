// Shows one exchange: summary, timing, and a tab for each view of it. Updates while the request is in flight.

import * as api from "./api.js";
import { byId, h, notice, setText } from "./dom.js";
import { clock } from "./format.js";
import { timing } from "./timing.js";
import { ends, KINDS, outgoing, verb } from "./words.js";

const REFRESH_MS = 250; // between two updates of a request in flight

export class Detail {
  // `views` and `commands` as in README.md.
  constructor(exchanges, { views, commands, actions }) {
    Object.assign(this, { exchanges, views, actions, id: null, tab: null, due: false, busy: false });
    this.commands = commands.filter(({ button }) => button);
    this.place = byId("detail");
  }

  show(id) {
    if (id === this.id) return;
    this.id = id;
    if (id === null) return this.clear();
    this.current = null;
    this.refresh();
  }

  clear() {
    this.id = this.current = null;
    this.frame = null;
    this.place.replaceChildren(h("p", { class: "hint" }, "Select a request. ", h("kbd", {}, "j"), " and ", h("kbd", {}, "k"), " move through the list."));
  }

  // The list has changed: fetches the shown exchange again if it has changed too. False if another one has
  // its id, from a devroute up that was started since.
  changed(summary) {
    const other = summary && this.current && this.current.started !== summary.started;
    if (!summary || other) {
      if (this.current) this.place.querySelector(".gone")?.removeAttribute("hidden");
      return !other;
    }
    const mark = JSON.stringify(summary);
    if (mark !== this.seen) {
      this.seen = mark;
      if (this.busy) this.due = true;
      else this.refresh();
    }
    return true;
  }

  async refresh() {
    const { id } = this;
    this.busy = true;
    this.due = false;
    try {
      const exchange = await api.detail(id);
      if (id === this.id) this.draw(exchange);
    } catch (error) {
      if (id === this.id && !this.current) this.place.replaceChildren(h("p", { class: "hint" }, error.message));
      else if (error.status !== 404) notice(error.message, "bad");
    }
    setTimeout(() => {
      this.busy = false;
      if (this.due || id !== this.id) this.id !== null && this.refresh();
    }, REFRESH_MS);
  }

  draw(exchange) {
    const first = this.current?.id !== exchange.id;
    this.current = exchange;
    if (first || !this.frame) this.build();
    this.head(exchange);
    const shown = this.views.filter((view) => view.applies(exchange));
    const tabs = shown.map(({ name }) => name);
    if (tabs.join() !== this.tabs) this.buildTabs(tabs);
    for (const [n, view] of shown.entries()) setText(this.tablist.children[n].lastChild, view.label(exchange));
    this.open(tabs.includes(this.tab) ? this.tab : tabs[0], false);
  }

  build() {
    this.title = h("h2", {}, h("span", { class: "status" }), h("span", { class: "method" }), h("span", { class: "target", title: "" }));
    this.line = h("p", { class: "line" });
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    this.byRule = h("p", { class: "by-rule", hidden: true });
    this.buttons = this.commands.map(({ button, key, run }) => h("button", { type: "button", title: `${button} (${key})`, onclick: () => run(this.id) }, button));
    const bar = h("div", { class: "actions" }, this.buttons);
    this.timing = h("div", { class: "timing" });
    this.tablist = h("div", { class: "tabs", role: "tablist", "aria-label": "Parts of the request", onkeydown: (event) => this.keys(event) });
    this.panel = h("div", { class: "panel", role: "tabpanel", id: "panel" });
    const gone = h("p", { class: "gone", hidden: true }, "No longer stored: dropped for newer requests, or cleared.");
    const back = h("button", { type: "button", class: "back quiet", onclick: () => this.actions.back() }, "← List");
    this.frame = h("div", { class: "frame" }, h("header", {}, back, this.title, this.line, this.problem, this.byRule, gone, bar, this.timing), this.tablist, this.panel);
    this.tabs = this.facts = "";
    this.opened = null;
    this.place.replaceChildren(this.frame);
  }

  head(exchange) {
    const [status, method, target] = this.title.children;
    this.title.dataset.class = exchange.class;
    setText(status, exchange.status_text || "…");
    setText(method, verb(exchange));
    setText(target, exchange.target);
    target.title = exchange.target;
    const facts = [
      outgoing(exchange) ? `from this laptop to ${exchange.service}` : exchange.service,
      exchange.kind !== "http" && (KINDS[exchange.kind] ?? exchange.kind),
      exchange.status && exchange.kind === "grpc" ? `${exchange.version} ${exchange.status}` : `${exchange.version} ${exchange.reason}`.trim(),
      clock(exchange.started, true),
      exchange.class !== "failed" && closing(exchange),
    ].filter(Boolean);
    if (this.facts !== facts.join()) {
      this.facts = facts.join();
      this.line.replaceChildren(...facts.map((fact) => h("span", {}, fact)), ...this.caller(exchange), ...(exchange.replay_of ? this.original(exchange) : []));
    }
    const problem = problemOf(exchange);
    this.problem.hidden = !problem;
    if (problem) this.problem.replaceChildren(...problem);
    this.byRule.hidden = !exchange.rules.length;
    setText(this.byRule, exchange.rules.join("; "));
    for (const [n, { applies }] of this.commands.entries()) this.buttons[n].disabled = applies ? !applies(exchange) : false;
    this.timing.replaceChildren(...timing(exchange));
  }

  caller({ caller }) {
    return caller ? [link(`from ${caller}`, () => this.actions.filter("from", caller), "Show only requests from this caller")] : [];
  }

  original({ id, replay_of: of }) {
    return [link(`replay of #${of}`, () => this.actions.choose(of)), link("compare with it", () => this.actions.compareTwo(of, id))];
  }

  buildTabs(tabs) {
    this.tabs = tabs.join();
    this.tablist.replaceChildren(...tabs.map((name, n) =>
      h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel", "data-tab": name, title: `${name} (${n + 1})`, onclick: () => this.open(name) }, h("span", {}, name), h("small", {}))));
  }

  open(name, chosen = true) {
    if (chosen) this.tab = name;
    for (const tab of this.tablist.children) {
      const selected = tab.dataset.tab === name;
      tab.setAttribute("aria-selected", selected);
      tab.tabIndex = selected ? 0 : -1;
    }
    this.panel.setAttribute("aria-labelledby", `tab-${name}`);
    const view = this.views.find((each) => each.name === name);
    if (this.opened !== name) this.panel.replaceChildren(view.element);
    this.opened = name;
    view.update(this.current);
  }

  openNumber(n) {
    const tab = this.tablist?.children[n - 1];
    if (this.current && tab) this.open(tab.dataset.tab);
  }

  keys(event) {
    const tabs = [...this.tablist.children];
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    event.stopPropagation();
    const tab = tabs[(to + tabs.length) % tabs.length];
    this.open(tab.dataset.tab);
    tab.focus();
  }
}

const link = (words, action, title) => h("button", { type: "button", class: "link", onclick: action, title }, words);

function closing(exchange) {
  const close = exchange.kind === "websocket" && exchange.message_list.find(({ opcode }) => opcode === "close");
  const { client, server } = ends(exchange);
  return close && `closed by the ${close.from_client ? client : server}: ${close.words}`;
}

// What is wrong with the exchange, in words; null if nothing is known to be.
function problemOf(exchange) {
  const { error, kind, state, status, status_text: outcome, grpc_status: grpc, grpc_message: message, class: outcomeClass } = exchange;
  if (error) return [h("b", {}, error.code), " ", error.message];
  if (grpc) return [h("b", {}, outcome), " ", message];
  if (kind === "grpc" && state === "done" && grpc === null && outcomeClass === "failed") {
    return [h("b", {}, "no grpc-status"), status === 200 ? " The response ended without one, which clients report as UNKNOWN." : ` The response is one of HTTP ${status}, not of gRPC.`];
  }
  return outcomeClass === "failed" ? [closing(exchange)] : null;
}
