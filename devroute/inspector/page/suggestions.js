// Completion of the query: a list below the field, from the server, moved through by the arrow keys.

import * as api from "./api.js";
import { byId, h } from "./dom.js";

export class Suggestions {
  // `changed()` is called when a suggestion was taken.
  constructor(field, changed) {
    Object.assign(this, { field, changed, active: -1, found: [], asked: 0 });
    this.list = byId("suggestions");
    field.addEventListener("input", () => this.ask());
    field.addEventListener("click", () => this.ask());
    field.addEventListener("focus", () => this.ask());
    field.addEventListener("blur", () => this.close());
    field.addEventListener("keydown", (event) => this.key(event));
    // The field keeps the focus.
    this.list.addEventListener("pointerdown", (event) => event.preventDefault());
  }

  get open() {
    return !this.list.hidden;
  }

  async ask() {
    const at = this.field.selectionStart ?? this.field.value.length;
    const asked = (this.asked += 1);
    let found = [];
    try {
      found = await api.suggestions(this.field.value.slice(0, at), this.field.value.slice(at));
    } catch { /* completion is a help only; the search says what is wrong */ }
    if (asked === this.asked && document.activeElement === this.field) this.draw(found);
  }

  draw(found) {
    Object.assign(this, { found, active: -1 });
    this.list.replaceChildren(...found.map(({ label, words }, n) =>
      h("li", { role: "option", id: `suggestion-${n}`, "aria-selected": "false", onclick: () => this.take(n) }, h("b", {}, label), h("span", {}, words))));
    this.list.hidden = !found.length;
    this.field.setAttribute("aria-expanded", this.open);
    this.field.removeAttribute("aria-activedescendant");
  }

  close() {
    this.asked += 1;
    this.draw([]);
  }

  take(n) {
    const { before, after } = this.found[n];
    this.field.value = before + after;
    this.field.setSelectionRange(before.length, before.length);
    this.changed();
    this.ask();
  }

  move(steps) {
    this.list.children[this.active]?.setAttribute("aria-selected", "false");
    // One place more than there are suggestions: the field itself.
    const places = this.found.length + 1;
    this.active = ((this.active + 1 + steps + places) % places) - 1;
    const row = this.list.children[this.active];
    row?.setAttribute("aria-selected", "true");
    row?.scrollIntoView({ block: "nearest" });
    if (row) this.field.setAttribute("aria-activedescendant", row.id);
    else this.field.removeAttribute("aria-activedescendant");
  }

  key(event) {
    const { key } = event;
    if (!this.open || event.isComposing) return;
    if (key === "ArrowDown" || key === "ArrowUp") this.move(key === "ArrowDown" ? 1 : -1);
    else if ((key === "Enter" || key === "Tab") && this.active >= 0) this.take(this.active);
    else if (key === "Escape") this.close();
    else {
      if (key === "Enter") this.close();
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
