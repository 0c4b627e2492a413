// The list's empty state: how to send a request.

import { copy, h } from "./dom.js";

export function empty(about, filtered, clearFilters) {
  if (filtered) {
    return [h("h2", {}, "No matches"), h("p", {}, "No request matches the filters."), h("button", { type: "button", class: "primary", onclick: clearFilters }, "Clear the filters")];
  }
  const block = (title, text) => h("div", { class: "snippet" }, h("div", { class: "bar" }, h("h3", {}, title), h("span", { class: "push" }),
    h("button", { type: "button", class: "quiet", onclick: () => copy(text, title.toLowerCase()) }, "Copy")), h("pre", { tabindex: "0" }, text));
  return [
    h("h2", {}, "Waiting for the first request"),
    h("p", {}, "Requests with this header are sent to your laptop and appear here."),
    about.name ? block("Contract", `X-devroute: ${contract(about)}`) : null,
    about.command ? block("Command", about.command) : null,
    about.link ? block("Browser", about.link) : null,
  ];
}

// Command and link are as devroute up prints them, and so is this. Names of services and laptops contain no quotes.
const contract = ({ name, services }) => `{${Object.keys(services).map((service) => `"${service}": "${name}"`).join(", ")}}`;
