// Compares two exchanges: the server's list of differences, then heads and bodies line by line.

import * as api from "./api.js";
import { asJson, asText } from "./body.js";
import { dialog, h } from "./dom.js";
import { duration, plural, size } from "./format.js";
import { pretty } from "./json.js";
import { verb } from "./words.js";

const MAX_LINES = 1500; // that are aligned; the time grows with the square of their number

export function differences(list, left, right) {
  return h("table", { class: "differences" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "where"), h("th", { scope: "col" }, left), h("th", { scope: "col" }, right))),
    h("tbody", {}, list.map(({ where, left: a, right: b }) => h("tr", {}, h("th", { scope: "row" }, where), h("td", { class: "left" }, shown(a)), h("td", { class: "right" }, shown(b))))));
}

const shown = (value) => (value === null || value === undefined ? h("i", {}, "absent") : typeof value === "string" ? value : JSON.stringify(value));

export async function openCompare(a, b) {
  const [compared, ...both] = await Promise.all([api.compare(a, b), api.detail(a), api.detail(b)]);
  const bodies = await Promise.all(["request", "response"].map((side) => Promise.all(both.map((each) => lines(each, side)))));
  // Differences between the responses come first; those between the requests start with "request ".
  const ofRequest = ({ where }) => where.startsWith("request ");
  const ofResponse = compared.differences.filter((each) => !ofRequest(each));
  const list = [...ofResponse, ...compared.differences.filter(ofRequest)];
  const [left, right] = both;
  const close = h("button", { class: "primary", autofocus: true }, "Close");
  dialog(`Compare #${a} with #${b}`, [
    h("div", { class: "pair heads" }, both.map((each) => h("div", { "data-class": each.class },
      h("span", { class: "status" }, each.status_text || "…"), h("span", { class: "method" }, verb(each)), h("span", { class: "target", title: each.target }, each.target),
      h("span", { class: "facts" }, `#${each.id} · ${each.service} · ${duration(each.duration_ms) || "in flight"} · ${size(each.response_size)}`)))),
    h("p", { class: ofResponse.length ? "outcome different" : "outcome same" }, ofResponse.length ? `The responses differ in ${plural(ofResponse.length, "place")}.` : "The responses are the same, apart from ignored headers."),
    list.length ? differences(list, `#${a}`, `#${b}`) : "",
    pair("Response headers", headers(left, "response"), headers(right, "response"), true),
    pair("Response body", ...bodies[1], true),
    pair("Request", [`${left.method} ${left.target}`, ...headers(left, "request")], [`${right.method} ${right.target}`, ...headers(right, "request")], false),
    pair("Request body", ...bodies[0], false),
  ], [h("span", { class: "push facts" }, "Dates, request ids and similar headers are ignored."), close], true);
}

const headers = (exchange, side) => exchange[`${side}_headers`].map(([name, value]) => `${name.toLowerCase()}: ${value}`).sort();

async function lines(exchange, side) {
  const meta = exchange[`${side}_body`];
  if (exchange.kind === "grpc") return decoded(exchange, side);
  if (!meta.kept) return [];
  const bytes = await api.body(exchange.id, side);
  const text = asText(bytes, !meta.truncated);
  if (text === undefined) return [`binary, ${size(meta.size)}`];
  const parsed = asJson(text);
  return (parsed ? pretty(parsed.value) : text).split("\n");
}

async function decoded({ id }, side) {
  const { messages } = await api.messages(id);
  return messages.filter(({ from_client: out }) => out === (side === "request")).flatMap(({ json, text, problem }) =>
    (json ? pretty(asJson(json).value) : text || problem || "binary").split("\n"));
}

function pair(title, left, right, open) {
  if (!left.length && !right.length) return "";
  const rows = align(left, right);
  const count = rows.filter(([a, b]) => a !== b).length;
  const cell = (text, other, side) => h("div", { class: text === null ? "void" : text !== other ? side : "" }, text ?? "");
  return h("details", { class: "pairs", open }, h("summary", {}, title, h("span", { class: "count" }, count ? plural(count, "line differs", "lines differ") : "same")),
    h("div", { class: "pair lines" }, rows.map(([a, b]) => [cell(a, b, "left"), cell(b, a, "right")])));
}

// Rows of [left line, right line], null for a missing line. Between the common start and the common end, lines
// are aligned by their longest common subsequence.
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
  const flush = () => {
    for (let n = 0; n < Math.max(only[0].length, only[1].length); n += 1) rows.push([only[0][n] ?? null, only[1][n] ?? null]);
    only = [[], []];
  };
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      flush();
      rows.push([a[i++], b[j++]]);
    } else if (j >= b.length || (i < a.length && best[(i + 1) * width + j] >= best[i * width + j + 1])) only[0].push(a[i++]);
    else only[1].push(b[j++]);
  }
  flush();
  return rows;
}
