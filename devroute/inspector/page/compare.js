// Two exchanges side by side: what the server says differs, then heads and bodies line by line.

import * as api from "./api.js";
import { asJson, asText } from "./body.js";
import { dialog, h } from "./dom.js";
import { duration, plural, size, statusClass, statusText } from "./format.js";
import { pretty } from "./json.js";

const MAX_LINES = 1500; // of a body's middle that are aligned; the work grows with the square

export function differences(list, left, right) {
  return h("table", { class: "differences" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "where"), h("th", { scope: "col" }, left), h("th", { scope: "col" }, right))),
    h("tbody", {}, list.map(({ where, left: a, right: b }) => h("tr", {}, h("th", { scope: "row" }, where), h("td", { class: "left" }, shown(a)), h("td", { class: "right" }, shown(b))))));
}

const shown = (value) => (value === null || value === undefined ? h("i", {}, "absent") : typeof value === "string" ? value : JSON.stringify(value));

export async function openCompare(a, b) {
  const [answer, ...both] = await Promise.all([api.compare(a, b), api.detail(a), api.detail(b)]);
  const bodies = await Promise.all(["request", "response"].map((side) => Promise.all(both.map((each) => lines(each, side)))));
  // "request …" is a difference of the requests, all others of the responses, which matter more.
  const asked = ({ where }) => where.startsWith("request ");
  const answers = answer.differences.filter((each) => !asked(each));
  const list = [...answers, ...answer.differences.filter(asked)];
  const [left, right] = both;
  const close = h("button", { class: "primary", autofocus: true }, "Close");
  dialog(`Compare #${a} with #${b}`, [
    h("div", { class: "pair heads" }, both.map((each) => h("div", { "data-class": statusClass(each) },
      h("span", { class: "status" }, statusText(each)), h("span", { class: "method" }, each.method), h("span", { class: "target", title: each.target }, each.target),
      h("span", { class: "facts" }, `#${each.id} · ${each.service} · ${duration(each.duration_ms) || "in flight"} · ${size(each.response_size)}`)))),
    h("p", { class: answers.length ? "verdict different" : "verdict same" }, answers.length ? `The answers differ in ${plural(answers.length, "place")}.` : "The answers are the same, but for what changes each time."),
    list.length ? differences(list, `#${a}`, `#${b}`) : "",
    pair("Response headers", headers(left, "response"), headers(right, "response"), true),
    pair("Response body", ...bodies[1], true),
    pair("Request", [`${left.method} ${left.target}`, ...headers(left, "request")], [`${right.method} ${right.target}`, ...headers(right, "request")], false),
    pair("Request body", ...bodies[0], false),
  ], [h("span", { class: "push facts" }, "Dates, ids of requests and the like do not count as differences."), close], true);
}

const headers = (exchange, side) => exchange[`${side}_headers`].map(([name, value]) => `${name.toLowerCase()}: ${value}`).sort();

async function lines(exchange, side) {
  const meta = exchange[`${side}_body`];
  if (!meta.kept) return [];
  const bytes = await api.body(exchange.id, side);
  const text = asText(bytes, !meta.truncated);
  if (text === undefined) return [`binary, ${size(meta.size)}`];
  const parsed = asJson(text);
  return (parsed ? pretty(parsed.value) : text).split("\n");
}

function pair(title, left, right, open) {
  if (!left.length && !right.length) return "";
  const rows = align(left, right);
  const count = rows.filter(([a, b]) => a !== b).length;
  const cell = (text, other, side) => h("div", { class: text === null ? "void" : text !== other ? side : "" }, text ?? "");
  return h("details", { class: "pairs", open }, h("summary", {}, title, h("span", { class: "count" }, count ? plural(count, "line differs", "lines differ") : "same")),
    h("div", { class: "pair lines" }, rows.map(([a, b]) => [cell(a, b, "left"), cell(b, a, "right")])));
}

// Rows of [left line, right line], null where the other side has no counterpart: the longest common
// subsequence of what lies between the common beginning and the common end.
export function align(left, right) {
  let start = 0;
  while (start < left.length && start < right.length && left[start] === right[start]) start += 1;
  let end = 0;
  while (end < left.length - start && end < right.length - start && left.at(-1 - end) === right.at(-1 - end)) end += 1;
  const a = left.slice(start, left.length - end);
  const b = right.slice(start, right.length - end);
  const same = (list) => list.map((line) => [line, line]);
  return [...same(left.slice(0, start)), ...middle(a, b), ...same(end ? left.slice(-end) : [])];
}

function middle(a, b) {
  if (a.length > MAX_LINES || b.length > MAX_LINES) return Array.from({ length: Math.max(a.length, b.length) }, (_, n) => [a[n] ?? null, b[n] ?? null]);
  const width = b.length + 1;
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      best[i * width + j] = a[i] === b[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
  }
  const rows = [];
  let only = [[], []];
  const settle = () => {
    for (let n = 0; n < Math.max(only[0].length, only[1].length); n += 1) rows.push([only[0][n] ?? null, only[1][n] ?? null]);
    only = [[], []];
  };
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      settle();
      rows.push([a[i++], b[j++]]);
    } else if (j >= b.length || (i < a.length && best[(i + 1) * width + j] >= best[i * width + j + 1])) only[0].push(a[i++]);
    else only[1].push(b[j++]);
  }
  settle();
  return rows;
}
