// The list, newest first. The list itself has the keyboard focus (aria-activedescendant).

import { byId, h, setText } from "./dom.js";
import { clock, duration, plural, size } from "./format.js";
import { Rows } from "./rows.js";
import { KINDS, outgoing, shadowed, verb } from "./words.js";

const ROW = 32;

// The words beside an exchange's path, of the first that has any: see README.md.
const BADGES = [
  ({ differences }) => (differences === null ? "" : differences ? `≠ ${differences}` : "= same"),
  ({ rules }) => rules.length && "rule",
  ({ replay_of: of }) => of && "replay",
  ({ kind }) => (kind === "sse" || kind === "upgrade" ? KINDS[kind] : ""),
];

export class List {
  constructor(exchanges, { choose, compareWith }) {
    Object.assign(this, { exchanges, choose, active: null, marked: null, newest: 0 });
    this.viewport = byId("list");
    this.fresh = byId("fresh");
    this.rows = new Rows(this.viewport, ROW, () => this.make(), (row, index) => this.fill(row, index));
    exchanges.addEventListener("change", () => this.update());
    this.viewport.addEventListener("click", (event) => {
      const row = event.target.closest("[role=option]");
      if (!row) return;
      const id = Number(row.dataset.id);
      if (event.shiftKey && this.active !== null && this.active !== id) compareWith(this.active, id);
      else this.activate(id);
    });
    this.viewport.addEventListener("scroll", () => this.seen(), { passive: true });
    this.fresh.addEventListener("click", () => this.top());
  }

  make() {
    const cell = (name) => h("span", { class: name });
    return h("div", { role: "option", class: "row" },
      cell("at"), cell("status"), cell("method"),
      h("span", { class: "path" }, h("b", { class: "to" }), h("b", { class: "kind" }), h("span")),
      cell("caller"), cell("service"), cell("time num"), cell("size num"));
  }

  fill(row, index) {
    const id = this.exchanges.shown[index];
    const exchange = this.exchanges.get(id);
    const selected = id === this.active;
    row.id = `row-${id}`;
    row.dataset.id = id;
    row.dataset.class = exchange.class;
    row.dataset.kind = exchange.kind;
    row.dataset.shadow = shadowed(exchange);
    row.dataset.marked = id === this.marked;
    row.setAttribute("aria-selected", selected);
    row.setAttribute("aria-posinset", index + 1);
    row.setAttribute("aria-setsize", this.exchanges.shown.length);
    const [at, status, method, path, caller, service, time, amount] = row.children;
    setText(at, clock(exchange.started));
    setText(status, exchange.status_text || "…");
    status.title = exchange.error ?? exchange.status_text;
    setText(method, verb(exchange));
    setText(caller, exchange.caller.split("/").at(-1));
    caller.title = exchange.caller;
    const [to, kind, target] = path.children;
    setText(to, outgoing(exchange) ? `→ ${exchange.service}` : "");
    to.title = outgoing(exchange) ? `from this laptop to ${exchange.service}` : "";
    setText(kind, id === this.marked ? "compare" : badge(exchange));
    setText(target, exchange.target);
    path.title = exchange.target;
    setText(service, outgoing(exchange) ? "" : exchange.service);
    setText(time, exchange.state === "open" ? "…" : duration(exchange.duration_ms));
    setText(amount, size(exchange.response_size));
  }

  update() {
    const { exchanges, rows, viewport } = this;
    // If the user has scrolled down, new rows above must not move the visible ones.
    const anchor = viewport.scrollTop > ROW ? this.anchor : undefined;
    rows.length = exchanges.shown.length;
    if (anchor !== undefined) {
      const index = exchanges.shown.indexOf(anchor.id);
      if (index >= 0) {
        rows.space.style.height = `${rows.length * ROW}px`;
        viewport.scrollTop = index * ROW + anchor.offset;
      }
    }
    this.seen();
    rows.soon();
    // Columns that would say nothing are left out.
    const columns = [exchanges.count(({ caller }) => caller) && "caller", exchanges.varies((each) => (outgoing(each) ? undefined : each.service)) && "service"];
    viewport.parentElement.dataset.columns = columns.filter(Boolean).join(" ");
    const total = exchanges.all.size;
    setText(byId("count"), exchanges.shown.length === total ? plural(total, "request") : `${exchanges.shown.length.toLocaleString("en")} of ${total.toLocaleString("en")}`);
  }

  // Remembers the first visible row, and counts the new rows above it.
  seen() {
    const { shown } = this.exchanges;
    const top = Math.floor(this.viewport.scrollTop / ROW);
    this.anchor = shown.length ? { id: shown[Math.min(top, shown.length - 1)], offset: this.viewport.scrollTop % ROW } : undefined;
    if (this.viewport.scrollTop <= ROW) this.newest = shown[0] ?? 0;
    let above = 0;
    while (above < shown.length && shown[above] > this.newest) above += 1;
    this.fresh.hidden = above === 0;
    if (above) setText(this.fresh, `↑ ${plural(above, "new request")}`);
  }

  get current() {
    return this.exchanges.get(this.active);
  }

  top() {
    this.viewport.scrollTop = 0;
    this.seen();
  }

  activate(id) {
    this.active = id;
    const index = this.exchanges.shown.indexOf(id);
    if (index >= 0) this.rows.reveal(index);
    this.rows.draw();
    if (index >= 0) this.viewport.setAttribute("aria-activedescendant", `row-${id}`);
    else this.viewport.removeAttribute("aria-activedescendant");
    this.choose(id);
  }

  // The details stay; no row is theirs.
  deactivate() {
    this.active = null;
    this.viewport.removeAttribute("aria-activedescendant");
    this.rows.soon();
  }

  // Positive steps move to older requests.
  move(steps) {
    const { shown } = this.exchanges;
    if (!shown.length) return;
    const next = Math.min(shown.length - 1, Math.max(0, shown.indexOf(this.active) + steps));
    this.activate(shown[next]);
  }

  mark(id) {
    this.marked = id;
    this.rows.soon();
  }
}

function badge(exchange) {
  for (const words of BADGES) if (words(exchange)) return words(exchange);
  return "";
}
