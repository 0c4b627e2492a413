// Shows one exchange: summary, timing, and tabs with its parts. Updates while the request is in flight.

import * as api from "./api.js";
import { BodyView } from "./body.js";
import { byId, copy, h, notice, setText } from "./dom.js";
import { KINDS, clock, duration, plural, size, statusClass, statusText } from "./format.js";
import { MessagesView } from "./messages.js";
import { differences } from "./compare.js";

const REFRESH_MS = 250; // between two updates of a request in flight

export class Detail {
  constructor(exchanges, actions) {
    Object.assign(this, { exchanges, actions, id: null, tab: null, due: false, busy: false });
    this.place = byId("detail");
    this.parts = {
      Response: new Side("response"),
      Request: new Side("request"),
      Messages: new MessagesView(),
      Shadow: new Shadow(),
    };
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

  // The list has changed. Fetches the shown exchange again if it has changed too.
  changed(summary) {
    if (!summary) {
      if (this.current) this.place.querySelector(".gone")?.removeAttribute("hidden");
      return;
    }
    const mark = JSON.stringify(summary);
    if (mark === this.seen) return;
    this.seen = mark;
    if (this.busy) this.due = true;
    else this.refresh();
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
    const tabs = this.available(exchange);
    if (tabs.join() !== this.tabs) this.buildTabs(tabs);
    this.label(exchange);
    this.open(tabs.includes(this.tab) ? this.tab : tabs[0], false);
  }

  available({ message_list: messages, messages_dropped: dropped, kind, comparison }) {
    const tabs = ["Response", "Request"];
    if (messages.length || dropped || kind === "websocket" || kind === "grpc") tabs.unshift("Messages");
    if (comparison) tabs.push("Shadow");
    return tabs;
  }

  build() {
    this.title = h("h2", {}, h("span", { class: "status" }), h("span", { class: "method" }), h("span", { class: "target", title: "" }));
    this.line = h("p", { class: "line" });
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    const button = (text, key, action) => h("button", { type: "button", title: `${text} (${key})`, onclick: action }, text);
    const { actions } = this;
    this.resending = [button("Replay", "r", () => actions.replay(this.id)), button("Edit and replay", "e", () => actions.edit(this.id))];
    const bar = h("div", { class: "actions" }, this.resending,
      button("Copy as curl", "y", () => actions.curl(this.id)),
      button("Compare", "c", () => actions.compare(this.id)));
    this.timing = h("div", { class: "timing" });
    this.tablist = h("div", { class: "tabs", role: "tablist", "aria-label": "Parts of the request", onkeydown: (event) => this.keys(event) });
    this.panel = h("div", { class: "panel", role: "tabpanel", id: "panel" });
    const gone = h("p", { class: "gone", hidden: true }, "No longer stored: dropped for newer requests, or cleared.");
    const back = h("button", { type: "button", class: "back quiet", onclick: () => actions.back() }, "← List");
    this.frame = h("div", { class: "frame" }, h("header", {}, back, this.title, this.line, this.problem, gone, bar, this.timing), this.tablist, this.panel);
    this.tabs = this.facts = "";
    this.opened = null;
    this.place.replaceChildren(this.frame);
  }

  head(exchange) {
    const [status, method, target] = this.title.children;
    this.title.dataset.class = statusClass(exchange);
    setText(status, statusText(exchange));
    setText(method, exchange.method);
    setText(target, exchange.target);
    target.title = exchange.target;
    const facts = [
      exchange.service,
      exchange.caller && `from ${exchange.caller}`,
      exchange.kind !== "http" && (KINDS[exchange.kind] ?? exchange.kind),
      exchange.status && exchange.kind === "grpc" ? `${exchange.version} ${exchange.status}` : `${exchange.version} ${exchange.reason}`.trim(),
      clock(exchange.started, true),
    ].filter(Boolean);
    if (this.facts !== facts.join()) {
      this.facts = facts.join();
      this.line.replaceChildren(...facts.map((fact) => h("span", {}, fact)), ...(exchange.replay_of ? this.original(exchange) : []));
    }
    const problem = exchange.error ? [h("b", {}, exchange.error.code), " ", exchange.error.message]
      : exchange.grpc_status ? [h("b", {}, statusText(exchange)), " ", exchange.grpc_message] : null;
    this.problem.hidden = !problem;
    if (problem) this.problem.replaceChildren(...problem);
    for (const button of this.resending) button.disabled = exchange.kind === "websocket" || exchange.kind === "upgrade";
    this.time(exchange);
  }

  original({ id, replay_of: of }) {
    const link = (words, action) => h("button", { type: "button", class: "link", onclick: action }, words);
    return [link(`replay of #${of}`, () => this.actions.choose(of)), link("compare with it", () => this.actions.compareTwo(of, id))];
  }

  time({ timing, duration_ms: total, state }) {
    const parts = [["queue", timing.queue_ms, "until the app had the whole request"], ["app", timing.app_ms, "until the first byte of the response"], ["transfer", timing.transfer_ms, "until the last byte"]];
    const sum = parts.reduce((all, [, ms]) => all + (ms ?? 0), 0) || 1;
    const bar = h("div", { class: "bar", "aria-hidden": "true" }, parts.map(([name, ms]) => {
      const piece = h("i", { class: name });
      piece.style.flexGrow = (ms ?? 0) / sum;
      return piece;
    }));
    const legend = h("dl", {}, parts.map(([name, ms, meaning]) => h("div", { class: name, title: meaning }, h("dt", {}, name), h("dd", {}, ms === null ? "…" : duration(ms)))),
      h("div", { class: "total" }, h("dt", {}, "total"), h("dd", {}, state === "open" ? "in flight" : duration(total))));
    this.timing.replaceChildren(bar, legend);
  }

  buildTabs(tabs) {
    this.tabs = tabs.join();
    this.tablist.replaceChildren(...tabs.map((name, n) =>
      h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel", "data-tab": name, title: `${name} (${n + 1})`, onclick: () => this.open(name) }, h("span", {}, name), h("small", {}))));
  }

  label(exchange) {
    const notes = {
      Response: exchange.response_size ? size(exchange.response_size) : "", Request: exchange.request_size ? size(exchange.request_size) : "",
      Messages: String(exchange.messages),
      Shadow: exchange.comparison ? (exchange.comparison.length ? String(exchange.comparison.length) : "same") : "",
    };
    for (const tab of this.tablist.children) setText(tab.lastChild, notes[tab.dataset.tab]);
  }

  open(name, chosen = true) {
    if (chosen) this.tab = name;
    for (const tab of this.tablist.children) {
      const selected = tab.dataset.tab === name;
      tab.setAttribute("aria-selected", selected);
      tab.tabIndex = selected ? 0 : -1;
    }
    this.panel.setAttribute("aria-labelledby", `tab-${name}`);
    const part = this.parts[name];
    if (this.opened !== name) this.panel.replaceChildren(part.element);
    this.opened = name;
    part.update(this.current);
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

// Headers, trailers and body of the request or of the response.
class Side {
  constructor(side) {
    this.side = side;
    this.body = new BodyView(side);
    this.note = h("p", { class: "redacted", hidden: true });
    this.headers = h("section", { class: "headers" });
    this.trailers = h("section", { class: "headers", hidden: true });
    this.element = h("div", { class: "side" }, this.note, this.body.element, this.headers, this.trailers);
  }

  update(exchange) {
    const headers = exchange[`${this.side}_headers`];
    const mark = JSON.stringify([exchange.id, headers, exchange.trailers]);
    if (mark !== this.mark) {
      this.mark = mark;
      this.headers.replaceChildren(...fields("Headers", headers));
      const trailers = this.side === "response" ? exchange.trailers : [];
      this.trailers.hidden = !trailers.length;
      this.trailers.replaceChildren(...fields("Trailers", trailers));
    }
    const hidden = this.side === "request" ? exchange.redacted : [];
    this.note.hidden = !hidden.length;
    setText(this.note, hidden.length ? `Redacted before storage: ${hidden.join(", ")}. A replay is sent without the original values.` : "");
    this.body.update(exchange);
  }
}

function fields(title, headers) {
  const rows = headers.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { "data-redacted": value.includes("[redacted]") }, value)));
  const text = () => headers.map(([name, value]) => `${name}: ${value}`).join("\n");
  return [
    h("div", { class: "bar" }, h("h3", {}, title), h("span", { class: "facts" }, headers.length ? String(headers.length) : ""), h("span", { class: "push" }),
      headers.length ? h("button", { type: "button", class: "quiet", onclick: () => copy(text(), title.toLowerCase()) }, "Copy") : null),
    headers.length ? h("table", {}, h("tbody", {}, rows)) : h("p", { class: "none" }, "None yet."),
  ];
}

// The differences from the real service's response, for shadow traffic.
class Shadow {
  element = h("div", { class: "side" });

  update({ comparison }) {
    const mark = JSON.stringify(comparison);
    if (mark === this.mark) return;
    this.mark = mark;
    this.element.replaceChildren(
      h("p", { class: comparison.length ? "verdict different" : "verdict same" }, comparison.length
        ? `Different from the real service's response in ${plural(comparison.length, "place")}.` : "The same as the real service's response."),
      comparison.length ? differences(comparison, "real service", "this laptop") : "");
  }
}
