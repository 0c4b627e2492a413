// What the page knows: summaries of all exchanges, the filters, and which of them are in sight, newest first.

import { shadowed, statusClass } from "./format.js";

export class Exchanges extends EventTarget {
  all = new Map();
  shown = []; // ids in sight, newest first
  filters = { text: "", classes: new Set(), method: "", service: "", kind: "", shadow: "" };
  found = null; // id -> where the server found the text; null when nothing is searched

  get(id) {
    return this.all.get(id);
  }

  // A batch of the server's: summaries that are new or changed, and ids that are gone.
  take({ changed = [], gone = [], cleared = false }) {
    if (cleared) this.all.clear();
    for (const summary of changed) {
      this.all.set(summary.id, summary);
      this.stale?.delete(summary.id);
    }
    for (const id of gone) this.all.delete(id);
    this.refresh();
  }

  // After a reconnection the server sends all captures again; those that it does not send are gone.
  resync() {
    this.stale = new Set(this.all.keys());
  }

  synced() {
    for (const id of this.stale ?? []) this.all.delete(id);
    this.stale = undefined;
    this.refresh();
  }

  filter(changes) {
    Object.assign(this.filters, changes);
    this.refresh();
  }

  matches(exchange) {
    const { text, classes, method, service, kind, shadow } = this.filters;
    return (
      (!classes.size || classes.has(statusClass(exchange))) &&
      (!method || exchange.method === method) &&
      (!service || exchange.service === service) &&
      (!kind || exchange.kind === kind) &&
      (!shadow || shadowed(exchange) === shadow) &&
      (!text || this.near(exchange, text) || Boolean(this.found?.has(exchange.id)))
    );
  }

  // What can be seen without the server: it searches headers and bodies.
  near(exchange, text) {
    return `${exchange.method} ${exchange.target} ${exchange.status ?? ""}`.toLowerCase().includes(text.toLowerCase());
  }

  refresh() {
    const shown = [];
    for (const exchange of this.all.values()) if (this.matches(exchange)) shown.push(exchange.id);
    this.shown = shown.sort((a, b) => b - a);
    this.dispatchEvent(new Event("change"));
  }

  // Of the copies of requests that the real service answered as well: how many answers were alike.
  shadows() {
    const counts = { same: 0, different: 0 };
    for (const exchange of this.all.values()) if (shadowed(exchange)) counts[shadowed(exchange)] += 1;
    return counts;
  }

  values(field) {
    return [...new Set([...this.all.values()].map((each) => each[field]).filter(Boolean))].sort();
  }
}
