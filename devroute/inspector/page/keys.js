// Keyboard shortcuts. They are inactive in input fields, and with modifier keys.

import { byId, dialog, h } from "./dom.js";

const HELP = [
  ["j k ↓ ↑", "next and previous request"], ["g G", "newest and oldest request"], ["Enter", "move the focus to the details"], ["Esc", "close the dialog, clear the search, or go back to the list"],
  ["/", "search"], ["1 2 3 4", "open a tab of the details"], ["r", "replay the request"], ["e", "edit and replay the request"], ["y", "copy the request as a curl command"],
  ["c", "mark the request; on another one, compare the two"], ["shift click", "compare the selected request with this one"], ["p", "pause or resume recording"], ["?", "show these keys"],
];

export function keyboard({ list, detail, actions }) {
  const on = {
    j: () => list.move(1), k: () => list.move(-1), ArrowDown: () => list.move(1), ArrowUp: () => list.move(-1),
    PageDown: () => list.move(12), PageUp: () => list.move(-12), g: () => list.move(-1e9), G: () => list.move(1e9), Home: () => list.move(-1e9), End: () => list.move(1e9),
    "/": () => byId("search").focus(), "?": help, p: actions.pause,
    r: () => list.active !== null && actions.replay(list.active), e: () => list.active !== null && actions.edit(list.active),
    y: () => list.active !== null && actions.curl(list.active), c: () => list.active !== null && actions.compare(list.active),
  };
  // These keys scroll, unless the list has the focus.
  const scrolls = new Set(["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"]);
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || byId("dialog").open || event.defaultPrevented) return;
    if (key === "Escape") return escape(event, { list, actions });
    if (target.closest("input, textarea, select")) {
      if (target.id === "search" && (key === "Enter" || key === "ArrowDown")) {
        event.preventDefault();
        list.viewport.focus();
        if (list.active === null) list.move(0);
      }
      return;
    }
    if (scrolls.has(key) && target !== list.viewport && target !== document.body) return;
    if (key === "Enter" && target === list.viewport) {
      if (list.active === null) list.move(0);
      detail.place.focus();
    } else if (/^[1-9]$/.test(key)) detail.openNumber(Number(key));
    else if (Object.hasOwn(on, key)) on[key]();
    else return;
    event.preventDefault();
  });
}

function escape(event, { list, actions }) {
  const search = byId("search");
  if (event.target === search && search.value) actions.search("");
  else if (list.marked !== null) list.mark(null);
  else actions.back();
  event.preventDefault();
}

export function help() {
  dialog("Keys", h("dl", { class: "keys" }, HELP.map(([keys, words]) => h("div", {}, h("dt", {}, keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, words)))), [h("button", { class: "primary", autofocus: true }, "Close")]);
}
