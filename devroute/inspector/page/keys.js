// Keyboard shortcuts. They are inactive in input fields, and with modifier keys.

import { byId, keysDialog } from "./dom.js";

const BEFORE = [
  ["j k ↓ ↑", "next and previous request"], ["g G", "newest and oldest request"], ["Enter", "move the focus to the details"],
  ["Esc", "close the dialog, clear the search, or go back to the list"], ["/", "search"], ["1 2 3 4", "open a tab of the details"],
];
const AFTER = [["shift click", "compare the selected request with this one"], ["?", "show these keys"]];

// `commands` as in README.md.
export function keyboard({ list, detail, commands, actions }) {
  const on = {
    j: () => list.move(1), k: () => list.move(-1), ArrowDown: () => list.move(1), ArrowUp: () => list.move(-1),
    PageDown: () => list.move(12), PageUp: () => list.move(-12), g: () => list.move(-1e9), G: () => list.move(1e9), Home: () => list.move(-1e9), End: () => list.move(1e9),
    "/": () => byId("search").focus(), "?": () => help(commands),
  };
  for (const { key, forPage, applies, run } of commands) {
    on[key] = () => {
      const exchange = forPage ? null : list.current;
      if (forPage) run();
      else if (exchange && (!applies || applies(exchange))) run(exchange.id);
    };
  }
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

export function help(commands) {
  keysDialog([...BEFORE, ...commands.map(({ key, words }) => [key, words]), ...AFTER]);
}
