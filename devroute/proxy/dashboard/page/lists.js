// Lists whose entries change: what has not changed keeps its element, and with it the focus and a selection.

const known = new WeakMap(); // element of an entry: what it was made of

// `entries`: key, row (what it is made of) and make().
export function show(list, entries) {
  const before = new Map([...list.children].map((element) => [known.get(element)?.key, element]));
  let at = null;
  for (const { key, row, make } of entries) {
    const made = JSON.stringify(row);
    let element = before.get(key);
    before.delete(key);
    if (!element || known.get(element).made !== made) {
      const fresh = make();
      known.set(fresh, { key, made });
      if (element) replace(element, fresh);
      element = fresh;
    }
    const next = at ? at.nextSibling : list.firstChild;
    if (next !== element) list.insertBefore(element, next);
    at = element;
  }
  for (const gone of before.values()) gone.remove();
}

// The element with the focus is found again in the new one.
function replace(element, fresh) {
  const held = document.activeElement;
  const inside = element.contains(held);
  const entry = inside && held.closest("[data-key]");
  const action = inside && held.dataset.do;
  element.replaceWith(fresh);
  if (!entry) return;
  const again = [fresh, ...fresh.querySelectorAll("[data-key]")].find((each) => each.dataset.key === entry.dataset.key);
  (action ? again?.querySelector(`[data-do="${action}"]`) : again)?.focus({ preventScroll: true });
}
