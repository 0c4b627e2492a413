// The tabs Response and Request: headers, trailers and body.

import { BodyView } from "./body.js";
import { copy, h, setText } from "./dom.js";
import { size } from "./format.js";
import { headerLines } from "./forms.js";

export class SideView {
  // `side` is "request" or "response".
  constructor(side) {
    this.side = side;
    this.name = side === "request" ? "Request" : "Response";
    this.body = new BodyView(side);
    this.note = h("p", { class: "redacted", hidden: true });
    this.headers = h("section", { class: "headers" });
    this.trailers = h("section", { class: "headers", hidden: true });
    this.element = h("div", { class: "side" }, this.note, this.body.element, this.headers, this.trailers);
  }

  applies() {
    return true;
  }

  label(exchange) {
    const bytes = exchange[`${this.side}_size`];
    return bytes ? size(bytes) : "";
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
  return [
    h("div", { class: "bar" }, h("h3", {}, title), h("span", { class: "facts" }, headers.length ? String(headers.length) : ""), h("span", { class: "push" }),
      headers.length ? h("button", { type: "button", class: "quiet", onclick: () => copy(headerLines(headers), title.toLowerCase()) }, "Copy") : null),
    headers.length ? h("table", {}, h("tbody", {}, rows)) : h("p", { class: "none" }, "None yet."),
  ];
}
