// Creates elements. Text is inserted as text nodes only, because captured content is not trusted.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

// Changes an element's text only if it differs, so that updates do not disturb a selection.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
  return element;
}

let fading = 0;

// A message at the bottom of the page that disappears by itself.
export function notice(text, kind = "") {
  const place = byId("notice");
  place.textContent = text;
  place.dataset.kind = kind;
  place.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => place.classList.remove("shown"), kind === "bad" ? 8000 : 3500);
}

// The action as a function that shows its error.
export const guarded = (action) => async (...values) => {
  try {
    return await action(...values);
  } catch (error) {
    notice(error.message, "bad");
  }
};

export async function copy(text, what, more = "") {
  try {
    await navigator.clipboard.writeText(text);
    notice(`${what} copied${more}`);
  } catch {
    notice("the browser denied access to the clipboard; select the text and copy it", "bad");
  }
}

// One modal dialog at a time. The browser keeps the focus inside, and restores it afterwards. A closed one is empty: what
// it showed of a request stays in the page no longer than it is visible.
export function dialog(title, content, buttons, wide = false) {
  const box = byId("dialog");
  box.onclose = () => { if (!box.open) box.replaceChildren(); };
  box.className = wide ? "wide" : "";
  const heading = h("h2", { id: "dialog-title" }, title);
  box.setAttribute("aria-labelledby", "dialog-title");
  const form = h("form", { method: "dialog" }, heading, h("div", { class: "dialog-body" }, content), h("div", { class: "dialog-foot" }, buttons));
  box.replaceChildren(form);
  if (!box.open) box.showModal();
  return { box, form, close: () => box.close() };
}

// `all`: keys, separated by spaces, and what they do.
export function keysDialog(all) {
  dialog("Keys", h("dl", { class: "keys" }, all.map(([keys, words]) => h("div", {}, h("dt", {}, keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, words)))), [h("button", { class: "primary", autofocus: true }, "Close")]);
}
