// Parts of the forms in dialogs: labelled fields, and headers as lines of text.

import { h } from "./dom.js";

export const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

export const labelled = (id, words, field, note) =>
  h("div", { class: "field" }, h("label", { for: id }, words), field, note ? h("small", {}, note) : null);

export const input = (id, value, attributes = {}) =>
  h("input", { id, value: value ?? "", autocomplete: "off", spellcheck: "false", ...attributes });

export const area = (id, value, rows, attributes = {}) =>
  h("textarea", { id, rows, spellcheck: "false", value: value ?? "", ...attributes });

export const select = (id, options, value) =>
  h("select", { id }, options.map(([name, words]) => h("option", { value: name, selected: name === value }, words)));

// Headers as the user writes them. Throws an Error that names a line without a colon.
export function parseHeaders(text) {
  return text.split("\n").filter((line) => line.trim()).map((line) => {
    const at = line.indexOf(":");
    if (at <= 0) throw new Error(`write headers as "name: value", not "${line.slice(0, 60)}"`);
    return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  });
}

export const headerLines = (headers) => headers.map(([name, value]) => `${name}: ${value}`).join("\n");

// Runs `action` when the form is sent, and shows its error in the dialog instead of closing it.
export function submitting(form, trouble, action) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    trouble.hidden = true;
    try {
      await action();
    } catch (error) {
      trouble.textContent = error.message;
      trouble.hidden = false;
    }
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}
