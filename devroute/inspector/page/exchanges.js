// The page's state: summaries of all exchanges, and which of them the query shows, newest first.

export class Exchanges extends EventTarget {
  all = new Map();
  shown = []; // matching ids, newest first
  matching = null; // the ids that match the query; null without a query

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
    this.refresh(changed.map(({ id }) => id));
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

  // Shows the exchanges with these ids, or all; of `among`, if given, and of the others what is shown already.
  match(ids, among) {
    if (!ids) this.matching = null;
    else if (!among) this.matching = new Set(ids);
    else {
      for (const id of among) this.matching?.delete(id);
      for (const id of ids) this.matching?.add(id);
    }
    this.refresh();
  }

  // `changed`: the ids of exchanges that are new or different.
  refresh(changed = []) {
    const ids = [...this.all.keys()];
    this.shown = (this.matching ? ids.filter((id) => this.matching.has(id)) : ids).sort((a, b) => b - a);
    this.dispatchEvent(new CustomEvent("change", { detail: changed }));
  }

  count(test) {
    let found = 0;
    for (const exchange of this.all.values()) if (test(exchange)) found += 1;
    return found;
  }

  // Whether the exchanges have more than one value; `of` returns that of one, undefined for none.
  varies(of) {
    let first;
    for (const exchange of this.all.values()) {
      const value = of(exchange);
      if (first !== undefined && value !== undefined && value !== first) return true;
      first ??= value;
    }
    return false;
  }
}
