// The query: which exchanges the list shows. Its text is the only state; the server reads it, and the buttons
// switch terms of it on and off.

import * as api from "./api.js";
import { byId, guarded, h, notice, setText } from "./dom.js";
import { Suggestions } from "./suggestions.js";
import { outgoing, shadowed } from "./words.js";

const CLASSES = ["2xx", "3xx", "4xx", "5xx", "failed", "open"];
const TYPING_MS = 120; // after the last keystroke
const MOST_IDS = 500; // in one request

export class Filters {
  constructor(exchanges) {
    Object.assign(this, { exchanges, text: "", changed: new Set(), busy: false });
    this.field = byId("search");
    this.error = byId("query-error");
    this.chips = [
      ...CLASSES.map((name) => this.chip("classes", { field: "status", value: name, words: () => name })),
      this.chip("direction", { field: "direction", value: "in", words: () => `${exchanges.count((each) => !outgoing(each)).toLocaleString("en")} in` }),
      this.chip("direction", { field: "direction", value: "out", words: () => `→ ${exchanges.count(outgoing).toLocaleString("en")} out` }),
      this.chip("shadow", { field: "is", value: "same", words: () => `= ${exchanges.count((each) => shadowed(each) === "same").toLocaleString("en")} same` }),
      this.chip("shadow", { field: "is", value: "different", words: () => `≠ ${exchanges.count((each) => shadowed(each) === "different").toLocaleString("en")} different` }),
      this.chip("noise", { field: "is", value: "noise", negated: true, words: () => `Hide noise ${exchanges.count(({ noise }) => noise).toLocaleString("en")}` }),
    ];
    this.suggestions = new Suggestions(this.field, () => this.typed());
    this.field.addEventListener("input", () => this.typed());
    this.field.form.addEventListener("submit", (event) => event.preventDefault());
    exchanges.addEventListener("change", ({ detail }) => this.arrived(detail));
    addEventListener("hashchange", () => this.fromAddress());
    this.label();
    this.fromAddress();
  }

  chip(place, { field, value, negated = false, words }) {
    const button = h("button", { type: "button", "aria-pressed": "false", "data-class": value, onclick: () => this.toggle(field, value, negated) });
    byId(place).append(button);
    return { button, field, value, negated, words };
  }

  // Adds the term to the query, or takes it out.
  toggle = guarded(async (field, value, negated = false) => {
    this.set(await api.switched(this.field.value, field, value, negated));
  });

  set(text) {
    this.field.value = text;
    this.suggestions.close();
    this.apply();
  }

  typed() {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.apply(), TYPING_MS);
  }

  // The address keeps the query, so that it survives a reload and can be a bookmark.
  fromAddress() {
    const text = new URLSearchParams(location.hash.slice(1)).get("q") ?? "";
    if (text !== this.text) this.set(text);
  }

  // Shows what matches the text of the field.
  apply() {
    clearTimeout(this.waiting);
    this.text = this.field.value.trim();
    history.replaceState(null, "", this.text ? `#${new URLSearchParams({ q: this.text })}` : location.pathname);
    this.changed.clear();
    if (this.text) return this.ask();
    this.running?.abort();
    this.understood([]);
    this.exchanges.match(null);
  }

  // New and changed exchanges may match, or no longer.
  arrived(ids) {
    this.label();
    if (!this.text || this.exchanges.matching === null) return;
    for (const id of ids) this.changed.add(id);
    if (!this.busy) this.askChanged();
  }

  askChanged() {
    const ids = [...this.changed].slice(0, MOST_IDS);
    for (const id of ids) this.changed.delete(id);
    if (ids.length) this.ask(ids);
  }

  async ask(among) {
    this.running?.abort();
    const running = (this.running = new AbortController());
    this.busy = true;
    try {
      const { ids, terms } = await api.search(this.text, among, running.signal);
      if (running.signal.aborted) return;
      this.understood(terms);
      this.exchanges.match(ids, among);
    } catch (error) {
      if (running.signal.aborted) return;
      if (error.code === "query-invalid") this.refused(error.message);
      else notice(error.message, "bad");
    }
    this.busy = false;
    this.askChanged();
  }

  understood(terms) {
    this.error.hidden = true;
    this.field.removeAttribute("aria-invalid");
    for (const { button, field, value, negated } of this.chips) {
      const on = terms.some((term) => term.field === field && term.negated === negated && term.values.some((each) => each.toLowerCase() === value));
      button.setAttribute("aria-pressed", on);
    }
    this.label();
  }

  refused(message) {
    setText(this.error, message);
    this.error.hidden = false;
    this.field.setAttribute("aria-invalid", "true");
  }

  label() {
    for (const { button, words } of this.chips) setText(button, words());
    const pressed = (place) => byId(place).querySelector("[aria-pressed=true]") !== null;
    byId("direction").hidden = !pressed("direction") && !this.exchanges.count(outgoing);
    byId("shadow").hidden = !pressed("shadow") && !this.exchanges.count(shadowed);
    byId("noise").hidden = !pressed("noise") && !this.exchanges.count(({ noise }) => noise);
    byId("export").href = `/api/har${this.text && !this.field.hasAttribute("aria-invalid") ? `?${new URLSearchParams({ q: this.text })}` : ""}`;
  }
}
