// The filters, and the search, which the server does in headers and bodies.

import * as api from "./api.js";
import { byId, h, notice, setText } from "./dom.js";
import { KINDS } from "./format.js";

const CLASSES = [["2xx", "2xx"], ["3xx", "3xx"], ["4xx", "4xx"], ["5xx", "5xx"], ["failed", "failed"], ["open", "open"]];
const TYPING_MS = 150; // after the last keystroke
const AGAIN_MS = 1000; // between two searches while requests arrive

export class Filters {
  constructor(exchanges) {
    this.exchanges = exchanges;
    byId("classes").append(...CLASSES.map(([name, words]) => h("button", { type: "button", "aria-pressed": "false", "data-class": name, onclick: (event) => this.toggle(event.currentTarget) }, words)));
    for (const [id, field] of [["methods", "method"], ["services", "service"], ["kinds", "kind"]]) {
      byId(id).addEventListener("change", (event) => exchanges.filter({ [field]: event.target.value }));
    }
    byId("search").addEventListener("input", () => this.typed());
    byId("search").form.addEventListener("submit", (event) => event.preventDefault());
    exchanges.addEventListener("change", () => this.changed());
    for (const name of ["same", "different"]) {
      byId("shadow").append(h("button", { type: "button", "aria-pressed": "false", "data-shadow": name, onclick: (event) => this.toggleShadow(event.currentTarget) }));
    }
    this.choices();
  }

  toggleShadow(chip) {
    const on = this.exchanges.filters.shadow === chip.dataset.shadow;
    for (const each of chip.parentElement.querySelectorAll("button")) each.setAttribute("aria-pressed", !on && each === chip);
    this.exchanges.filter({ shadow: on ? "" : chip.dataset.shadow });
  }

  toggle(chip) {
    const { classes } = this.exchanges.filters;
    const on = !classes.has(chip.dataset.class);
    if (on) classes.add(chip.dataset.class);
    else classes.delete(chip.dataset.class);
    chip.setAttribute("aria-pressed", on);
    this.exchanges.filter({});
  }

  clear() {
    for (const chip of document.querySelectorAll(".chips button")) chip.setAttribute("aria-pressed", "false");
    for (const id of ["methods", "services", "kinds"]) byId(id).value = "";
    byId("search").value = "";
    Object.assign(this.exchanges, { found: null });
    this.exchanges.filter({ text: "", classes: new Set(), method: "", service: "", kind: "", shadow: "" });
  }

  search(text) {
    byId("search").value = text;
    this.typed();
  }

  typed() {
    const text = byId("search").value.trim();
    this.exchanges.found = null;
    this.exchanges.filter({ text });
    clearTimeout(this.waiting);
    this.waiting = undefined;
    this.running?.abort();
    if (text) this.later(TYPING_MS);
  }

  // Searches again, because new requests may match too.
  changed() {
    this.choices();
    if (this.exchanges.filters.text && !this.asking && this.exchanges.all.size !== this.searched) this.later(AGAIN_MS);
  }

  later(ms) {
    this.waiting ??= setTimeout(() => this.ask(), ms);
  }

  async ask() {
    this.waiting = undefined;
    this.asking = true;
    const { text } = this.exchanges.filters;
    this.running = new AbortController();
    this.searched = this.exchanges.all.size;
    try {
      const { found } = await api.search(text, this.running.signal);
      if (text !== this.exchanges.filters.text) return;
      this.exchanges.found = new Map(found);
      this.exchanges.refresh();
    } catch (error) {
      if (!this.running.signal.aborted) notice(error.message, "bad");
    } finally {
      this.asking = false;
    }
  }

  choices() {
    const counts = this.exchanges.shadows();
    byId("shadow").hidden = counts.same + counts.different === 0;
    for (const chip of byId("shadow").querySelectorAll("button")) setText(chip, `${chip.dataset.shadow === "same" ? "=" : "≠"} ${counts[chip.dataset.shadow].toLocaleString("en")} ${chip.dataset.shadow}`);
    for (const [id, field] of [["methods", "method"], ["services", "service"], ["kinds", "kind"]]) {
      const select = byId(id);
      const values = this.exchanges.values(field);
      const chosen = this.exchanges.filters[field];
      if (chosen && !values.includes(chosen)) values.push(chosen);
      if (select.dataset.values === values.join()) continue;
      select.dataset.values = values.join();
      select.replaceChildren(h("option", { value: "" }, `any ${field}`), ...values.map((each) => h("option", { value: each }, field === "kind" ? KINDS[each] ?? each : each)));
      select.value = chosen;
      select.hidden = field === "service" && values.length < 2;
    }
  }
}
