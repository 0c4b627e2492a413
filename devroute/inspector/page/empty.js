// What stands where no exchange is: how to send one.

import { copy, h } from "./dom.js";

export function empty(about, filtered, clearFilters) {
  if (filtered) {
    return [h("h2", {}, "Nothing matches"), h("p", {}, "No exchange passes the filters."), h("button", { type: "button", class: "primary", onclick: clearFilters }, "Clear the filters")];
  }
  const block = (title, text) => h("div", { class: "snippet" }, h("div", { class: "bar" }, h("h3", {}, title), h("span", { class: "push" }),
    h("button", { type: "button", class: "quiet", onclick: () => copy(text, title.toLowerCase()) }, "Copy")), h("pre", { tabindex: "0" }, text));
  return [
    h("h2", {}, "Waiting for the first request"),
    h("p", {}, "Requests with this header come to your laptop, and show up here as they happen."),
    about.contract ? block("Contract", `X-devroute: ${about.contract}`) : null,
    about.curl ? block("curl", about.curl) : null,
  ];
}
