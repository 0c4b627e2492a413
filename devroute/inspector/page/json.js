// JSON as a collapsible tree. Numbers are shown as written, because JavaScript would round long ones.

import { h } from "./dom.js";

const CHUNK = 100; // members of an object or array that are shown at once
const OPEN_UP_TO = 40; // members of a container that is open at first
const OPEN_DEPTH = 3;
const LONG = 2000; // characters of a string that are shown at once

class Exact {
  constructor(source) {
    this.source = source;
  }
}

export function parse(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && context?.source !== undefined && String(value) !== context.source ? new Exact(context.source) : value);
}

// Indented text with sorted keys, for comparisons.
export function pretty(value, indent = "") {
  if (value instanceof Exact) return value.source;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}  `;
  if (Array.isArray(value)) return value.length ? `[\n${value.map((each) => inner + pretty(each, inner)).join(",\n")}\n${indent}]` : "[]";
  const keys = Object.keys(value).sort();
  return keys.length ? `{\n${keys.map((key) => `${inner}${JSON.stringify(key)}: ${pretty(value[key], inner)}`).join(",\n")}\n${indent}}` : "{}";
}

export function tree(value) {
  return h("div", { class: "json" }, node(value, null, 0));
}

function node(value, key, depth) {
  const name = key === null ? null : [h("span", { class: typeof key === "number" ? "index" : "key" }, typeof key === "number" ? String(key) : JSON.stringify(key)), ": "];
  if (value === null || typeof value !== "object" || value instanceof Exact) return h("div", { class: "leaf" }, name, leaf(value));
  const entries = Array.isArray(value) ? value : Object.entries(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!entries.length) return h("div", { class: "leaf" }, name, `${open}${close}`);
  const count = h("span", { class: "count" }, `${entries.length} ${Array.isArray(value) ? (entries.length === 1 ? "item" : "items") : entries.length === 1 ? "key" : "keys"}`);
  const inside = h("div", { class: "inside" });
  const fold = h("details", { open: depth < OPEN_DEPTH && entries.length <= OPEN_UP_TO || depth === 0 },
    h("summary", {}, name, h("span", { class: "bracket" }, open), h("span", { class: "folded" }, " … ", close, " "), count), inside, h("div", { class: "bracket end" }, close));
  const draw = () => {
    if (!inside.childElementCount) more(inside, value, entries, 0, depth);
  };
  if (fold.open) draw();
  fold.addEventListener("toggle", draw);
  return fold;
}

function more(place, value, entries, from, depth) {
  const list = Array.isArray(value);
  entries.slice(from, from + CHUNK).forEach((entry, n) => place.append(list ? node(entry, from + n, depth + 1) : node(entry[1], entry[0], depth + 1)));
  const left = entries.length - from - CHUNK;
  if (left > 0) {
    const button = h("button", { type: "button", class: "more", onclick: () => { button.remove(); more(place, value, entries, from + CHUNK, depth); } }, `${Math.min(left, CHUNK)} more of ${left}`);
    place.append(button);
  }
}

function leaf(value) {
  if (value instanceof Exact) return h("span", { class: "number" }, value.source);
  if (typeof value === "string" && value.length > LONG) {
    const text = h("span", { class: "string" }, JSON.stringify(value.slice(0, LONG)).slice(0, -1));
    const button = h("button", { type: "button", class: "more", onclick: () => { text.textContent = JSON.stringify(value); button.remove(); } }, `… ${value.length - LONG} more characters`);
    return [text, button];
  }
  return h("span", { class: value === null ? "null" : typeof value }, JSON.stringify(value));
}
