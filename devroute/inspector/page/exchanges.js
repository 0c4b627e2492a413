// The page's state: summaries of all exchanges, the filters, and the exchanges that match them, newest first.

import { shadowed, statusClass } from "./format.js";

export class Exchanges extends EventTarget {
  all = new Map();
  shown = []; // matching ids, newest first
  filters = { text: "", classes: new Set(), method: "", service: "", kind: "", shadow: "" };
  found = null; // id -> where the server found the text; null without a search

  get(id) {
    return this.all.get(id);
  }

  // A batch from the server: new or changed summaries, and ids of dropped captures.
  take({ changed = [], gone = [], cleared = false }) {
    if (cleared) this.all.clear();
    for (const summary of changed) {
      this.all.set(summary.id, summary);
      this.stale?.delete(summary.id);
    }
    for (const id of gone) this.all.delete(id);
    this.refresh();
  }

  // After a reconnection the server sends all captures again; the others were dropped.
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

  // Matches the fields that the page has; the server searches headers and bodies.
  near(exchange, text) {
    return `${exchange.method} ${exchange.target} ${exchange.status ?? ""}`.toLowerCase().includes(text.toLowerCase());
  }

  refresh() {
    const shown = [];
    for (const exchange of this.all.values()) if (this.matches(exchange)) shown.push(exchange.id);
    this.shown = shown.sort((a, b) => b - a);
    this.dispatchEvent(new Event("change"));
  }

  // Counts of shadow requests whose response was the same as the real service's, or different.
  shadows() {
    const counts = { same: 0, different: 0 };
    for (const exchange of this.all.values()) if (shadowed(exchange)) counts[shadowed(exchange)] += 1;
    return counts;
  }

  values(field) {
    return [...new Set([...this.all.values()].map((each) => each[field]).filter(Boolean))].sort();
  }
}
