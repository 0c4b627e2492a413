// The time of one exchange: until the app, or the service, had the request, until it responded, until the end.

import { h } from "./dom.js";
import { duration } from "./format.js";
import { ends } from "./words.js";

export function timing(exchange) {
  const { timing: { queue_ms: queue, app_ms: app, transfer_ms: transfer }, duration_ms: total, state } = exchange;
  const { server } = ends(exchange);
  const parts = [["queue", queue, `until the ${server} had the whole request`], ["app", app, "until the first byte of the response"], ["transfer", transfer, "until the last byte"]];
  const sum = parts.reduce((all, [, ms]) => all + (ms ?? 0), 0) || 1;
  const bar = h("div", { class: "bar", "aria-hidden": "true" }, parts.map(([name, ms]) => {
    const piece = h("i", { class: name });
    piece.style.flexGrow = (ms ?? 0) / sum;
    return piece;
  }));
  const legend = h("dl", {}, parts.map(([name, ms, meaning]) => h("div", { class: name, title: meaning }, h("dt", {}, name === "app" ? server : name), h("dd", {}, ms === null ? "…" : duration(ms)))),
    h("div", { class: "total" }, h("dt", {}, "total"), h("dd", {}, state === "open" ? "in flight" : duration(total))));
  return [bar, legend];
}
