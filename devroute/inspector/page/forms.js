// Parts of the forms in dialogs: labelled fields, and headers as lines of text.

import { h } from "./dom.js";

const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

export const labelled = (id, words, field, note) =>
  h("div", { class: "field" }, h("label", { for: id }, words), field, note ? h("small", {}, note) : null);

export const input = (id, value, attributes = {}) =>
  h("input", { id, value: value ?? "", autocomplete: "off", spellcheck: "false", ...attributes });

export const area = (id, value, rows, attributes = {}) =>
  h("textarea", { id, rows, spellcheck: "false", value: value ?? "", ...attributes });

// What an area says whose text was `text`. It has LF for each line break: an unedited text stays as it was, and an
// edited one gets back the CR LF of a text that had no others.
export function written({ value }, text) {
  if (value === text.replace(/\r\n?/g, "\n")) return text;
  return text.includes("\r\n") && !/[\r\n]/.test(text.replaceAll("\r\n", "")) ? value.replaceAll("\n", "\r\n") : value;
}

export const select = (id, options, value) =>
  h("select", { id }, options.map(([name, words]) => h("option", { value: name, selected: name === value }, words)));

// The methods that a field with this `list` suggests.
export const methods = (id) => h("datalist", { id }, METHODS.map((each) => h("option", { value: each })));

// Headers as the user writes them. Throws an Error that names a line without a colon.
export function parseHeaders(text) {
  return text.split("\n").filter((line) => line.trim()).map((line) => {
    const at = line.indexOf(":");
    if (at <= 0) throw new Error(`write headers as "name: value", not "${line.slice(0, 60)}"`);
    return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  });
}

export const headerLines = (headers) => headers.map(([name, value]) => `${name}: ${value}`).join("\n");

// Where a form says what went wrong.
export const problemLine = () => h("p", { class: "problem", role: "alert", hidden: true });

// Runs `action`, and shows its error in the dialog instead of closing it.
export async function trying(trouble, action) {
  trouble.hidden = true;
  try {
    await action();
  } catch (error) {
    trouble.textContent = error.message;
    trouble.hidden = false;
  }
}

// Runs `action` when the form is sent.
export function submitting(form, trouble, action) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    trying(trouble, action);
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}
