// Makes elements. Text goes in as text nodes only: what is shown here was written by strangers.

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

// Changes an element's text only where it differs, so that a live page does not disturb a selection.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  return element;
}

let fading = 0;

// A line at the foot of the page that goes away by itself.
export function notice(text, kind = "") {
  const place = byId("notice");
  place.textContent = text;
  place.dataset.kind = kind;
  place.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => place.classList.remove("shown"), kind === "bad" ? 8000 : 3500);
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    notice(`${what} copied`);
  } catch {
    notice(`the browser does not let the page copy; select the text by hand`, "bad");
  }
}

// One modal dialog at a time; the browser keeps the focus inside and gives it back.
export function dialog(title, content, buttons, wide = false) {
  const box = byId("dialog");
  box.className = wide ? "wide" : "";
  const heading = h("h2", { id: "dialog-title" }, title);
  box.setAttribute("aria-labelledby", "dialog-title");
  const form = h("form", { method: "dialog" }, heading, h("div", { class: "dialog-body" }, content), h("div", { class: "dialog-foot" }, buttons));
  box.replaceChildren(form);
  if (!box.open) box.showModal();
  return { box, form, close: () => box.close() };
}
