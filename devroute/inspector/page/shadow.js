// The tab Shadow: the differences from the real service's response, for shadow traffic.

import { differences } from "./compare.js";
import { h } from "./dom.js";
import { plural } from "./format.js";

export class ShadowView {
  name = "Shadow";
  element = h("div", { class: "side" });

  applies({ comparison }) {
    return Boolean(comparison);
  }

  label({ comparison }) {
    return comparison.length ? String(comparison.length) : "same";
  }

  update({ comparison }) {
    const mark = JSON.stringify(comparison);
    if (mark === this.mark) return;
    this.mark = mark;
    this.element.replaceChildren(
      h("p", { class: comparison.length ? "outcome different" : "outcome same" }, comparison.length
        ? `Different from the real service's response in ${plural(comparison.length, "place")}.` : "The same as the real service's response."),
      comparison.length ? differences(comparison, "real service", "this laptop") : "");
  }
}
