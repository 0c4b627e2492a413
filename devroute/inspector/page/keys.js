// The keyboard. Letters count only outside of fields, and never with a modifier.

import { byId, dialog, h } from "./dom.js";

const HELP = [
  ["j k ↓ ↑", "next and previous exchange"], ["g G", "newest and oldest"], ["Enter", "into the exchange"], ["Esc", "back: close, clear the search, to the list"],
  ["/", "search"], ["1 2 3 4", "tabs of the exchange"], ["r", "replay"], ["e", "edit and replay"], ["y", "copy as curl"],
  ["c", "mark for comparing; on a second one: compare"], ["shift click", "compare the chosen exchange with this one"], ["p", "pause recording, and go on"], ["?", "this list"],
];

export function keyboard({ list, detail, actions }) {
  const on = {
    j: () => list.move(1), k: () => list.move(-1), ArrowDown: () => list.move(1), ArrowUp: () => list.move(-1),
    PageDown: () => list.move(12), PageUp: () => list.move(-12), g: () => list.move(-1e9), G: () => list.move(1e9), Home: () => list.move(-1e9), End: () => list.move(1e9),
    "/": () => byId("search").focus(), "?": help, p: actions.pause,
    r: () => list.active !== null && actions.replay(list.active), e: () => list.active !== null && actions.edit(list.active),
    y: () => list.active !== null && actions.curl(list.active), c: () => list.active !== null && actions.compare(list.active),
  };
  // In these, keys scroll, unless the list itself has the focus.
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
