// The rules of this laptop: the button that shows whether they are on, the dialog that lists them, and the form of one.

import * as api from "./api.js";
import { byId, copy, dialog, guarded, h, notice, setText } from "./dom.js";
import { plural } from "./format.js";
import { area, headerLines, input, labelled, methods, parseHeaders, problemLine, select, submitting, written } from "./forms.js";

let state = { on: true, rules: [] };
let places = []; // the services that a rule can be of: "in b", "out c.shop:80", and words
let listing = null; // the body of the open list

// The server's event: all rules, and whether they are on.
export function showRules(data) {
  state = data;
  const active = data.on ? data.rules.filter(({ enabled }) => enabled).length : 0;
  const button = byId("rules");
  button.setAttribute("aria-pressed", active > 0);
  button.dataset.off = data.rules.length > 0 && !data.on;
  setText(button, data.rules.length ? `Rules ${data.on ? active : "off"}` : "Rules");
  if (listing?.isConnected) draw();
}

// The services of this laptop's apps, and those of the mesh that it has ports for.
export function knownServices(served, reached) {
  places = [["in ", "every service of this laptop"], ...served.map((each) => [`in ${each}`, each]),
    ["out ", "→ every service of the mesh"], ...reached.map((each) => [`out ${each}`, `→ ${each}`])];
}

const toMesh = ({ service }) => `→ ${service || "every service"}`;

export async function switchRules() {
  if (!state.rules.length) return openRules();
  const { on } = await api.switchRules(!state.on);
  notice(on ? "all rules are on" : "all rules are off");
}

export function openRules() {
  listing = h("div", { class: "rule-list" });
  dialog("Rules", listing, [
    h("button", { type: "button", id: "rules-yaml", onclick: yaml }, "Copy as YAML"),
    h("span", { class: "push facts" }, "For devroute.yaml. Rules made here end with devroute up."),
    h("button", { type: "button", id: "rule-new", onclick: () => openRule({}) }, "New rule"),
    h("button", { class: "primary" }, "Close"),
  ], true);
  draw();
}

const yaml = guarded(async () => copy(await api.rulesYaml(), "all rules, as YAML,"));

function draw() {
  const { rules, on } = state;
  const all = h("label", { class: "switch" }, h("input", { type: "checkbox", id: "rules-on", checked: on, onchange: guarded(switchRules) }), on ? "All rules are on" : "All rules are off");
  const rows = rules.map((rule) => h("tr", { "data-off": !on || !rule.enabled },
    h("td", {}, h("input", { type: "checkbox", checked: rule.enabled, "aria-label": `${rule.label} on`, onchange: guarded((event) => api.enableRule(rule.id, event.target.checked)) })),
    h("th", { scope: "row" }, rule.label, rule.direction === "out" ? h("small", {}, toMesh(rule)) : rule.service ? h("small", {}, rule.service) : null),
    h("td", {}, rule.does),
    h("td", { class: "num", title: "requests that it has matched" }, plural(rule.hits, "request")),
    h("td", {}, rule.source === "page" ? "this page" : "settings"),
    h("td", { class: "tools" },
      h("button", { type: "button", class: "quiet", onclick: guarded(async () => openRule(await api.rule(rule.id), rule.id)) }, "Edit"),
      h("button", { type: "button", class: "quiet", "aria-label": `Delete ${rule.label}`, onclick: guarded(() => api.deleteRule(rule.id)) }, "Delete"))));
  listing.replaceChildren(
    rules.length || !on ? all : "",
    rules.length
      ? h("table", {}, h("thead", {}, h("tr", {}, ["On", "Rule", "What it does", "Matched", "From", ""].map((words) => h("th", { scope: "col" }, words)))), h("tbody", {}, rows))
      : h("p", { class: "none" }, "No rules. A rule responds in place of your app, delays or fails requests, or holds them so that you can edit them; also those of your app to services of the mesh."),
    rules.length > 1 ? h("p", { class: "facts" }, "The first rule that matches a request applies.") : "");
}

// A new rule for requests like this one, with its response if it was recorded as a whole.
export async function ruleFor({ id, direction, service, method, target }) {
  const rule = { direction, service, method, path: target.split("?")[0] };
  try {
    const { rule: recorded, without } = await api.recordedRule(id);
    openRule(recorded, null, without);
  } catch {
    openRule({ ...rule, break: "request" });
  }
}

const ACTIONS = [["respond", "Respond instead of the app"], ["break", "Hold (breakpoint)"], ["fail", "Fail"], ["delay", "Only delay, or a timeout"]];
const HELD = [["request", "the request"], ["response", "the response"], ["both", "both"]];

// `rule` as in devroute.yaml; `id` of the one that is edited, `without`: the parts of a recorded response that were redacted.
function openRule(rule, id = null, without = []) {
  const respond = rule.respond ?? {};
  const json = respond.body !== undefined && typeof respond.body !== "string";
  const kept = respond.body_base64 !== undefined || respond.body_file !== undefined;
  const action = ACTIONS.map(([name]) => name).find((name) => rule[name] !== undefined) ?? (rule.timeout === undefined ? "respond" : "delay");
  const place = `${rule.direction ?? "in"} ${rule.service ?? ""}`;
  const listed = places.some(([name]) => name === place) ? places : [...places, [place, rule.direction === "out" ? toMesh(rule) : rule.service]];
  const pairs = (fields) => (Array.isArray(fields) ? fields : Object.entries(fields ?? {})).flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
  const fields = {
    name: input("rule-name", rule.name, { maxlength: "60", placeholder: "optional" }),
    service: select("rule-service", listed, place),
    method: input("rule-method", [rule.method ?? []].flat().join(" "), { list: "rule-methods", placeholder: "every method" }),
    path: input("rule-path", rule.path ?? "*", { autofocus: true }),
    header: area("rule-header", headerLines(pairs(rule.header)), 2, { placeholder: "x-tenant: acme*" }),
    action: select("rule-action", ACTIONS, action),
    delay: input("rule-delay", rule.delay, { placeholder: "none, or 500ms, 3s" }),
    timeout: input("rule-timeout", rule.timeout, { placeholder: "none, or 500ms, 3s" }),
    status: input("rule-status", respond.status ?? 200, { inputmode: "numeric" }),
    headers: area("rule-headers", headerLines(pairs(respond.headers)), 5),
    body: area("rule-body", kept ? "" : json ? JSON.stringify(respond.body, null, 2) : respond.body, 8, { disabled: kept }),
    fail: input("rule-fail", rule.fail ?? 503, { placeholder: "503, or reset" }),
    held: select("rule-break", HELD, rule.break ?? "request"),
  };
  const parts = {
    respond: [labelled("rule-status", "Status", fields.status),
      labelled("rule-headers", "Headers of the response", fields.headers, without.length ? `Redacted in the recording, and left out or sent as [redacted]: ${without.join(", ")}.` : "one per line; devroute sets length and framing"),
      labelled("rule-body", "Body", fields.body, kept ? (respond.body_file ? `the file ${respond.body_file}` : "binary, as recorded") : "")],
    break: [labelled("rule-break", "Hold", fields.held, "Held messages appear above the list. They continue by themselves after 10 minutes, and when no page is open.")],
    fail: [labelled("rule-fail", "Fail with", fields.fail, "a status, or reset: as if the app closed the connection")],
    delay: [],
  };
  const shown = h("div", { class: "fields" });
  const choose = () => shown.replaceChildren(...parts[fields.action.value]);
  fields.action.addEventListener("change", choose);
  choose();
  const trouble = problemLine();
  const { form } = dialog(id === null ? "New rule" : "Edit rule", [
    h("div", { class: "fields" },
      h("div", { class: "columns-2" }, labelled("rule-name", "Name", fields.name), labelled("rule-service", "Service", fields.service)),
      h("div", { class: "startline" }, labelled("rule-method", "Methods", [fields.method, methods("rule-methods")]), labelled("rule-path", "Path, without the query", fields.path, "/api/ is all below it; * is any text")),
      labelled("rule-header", "Only with these headers", fields.header),
      h("div", { class: "columns-2" }, labelled("rule-action", "What happens", fields.action), labelled("rule-delay", "Delay before that", fields.delay), labelled("rule-timeout", "Timeout", fields.timeout))),
    shown,
    trouble,
  ], [h("button", { type: "button", onclick: openRules }, "Back to the rules"), h("span", { class: "push" }), h("button", { class: "primary", id: "rule-save" }, "Save")], true);
  submitting(form, trouble, async () => {
    const made = read(fields, respond, { json, kept });
    if (rule.enabled === false) made.enabled = false;
    await (id === null ? api.addRule(made) : api.changeRule(id, made));
    openRules();
  });
}

// The rule as the form has it. What it does not show of a response (binary bodies, trailers) stays.
function read(fields, respond, { json, kept }) {
  const value = (name) => fields[name].value.trim();
  const rule = { path: value("path") || "*" };
  if (value("name")) rule.name = value("name");
  const [direction, service] = fields.service.value.split(" ");
  if (direction === "out") rule.direction = direction;
  if (service) rule.service = service;
  if (value("method")) rule.method = value("method").toUpperCase().split(/[\s,]+/);
  if (value("header")) rule.header = parseHeaders(value("header"));
  for (const name of ["delay", "timeout"]) if (value(name)) rule[name] = /^[\d.]+$/.test(value(name)) ? Number(value(name)) : value(name);
  const action = value("action");
  if (action === "break") rule.break = value("held");
  if (action === "fail") rule.fail = value("fail") === "reset" ? "reset" : Number(value("fail"));
  if (action === "respond") {
    rule.respond = { status: Number(value("status")), headers: parseHeaders(value("headers")) };
    if (respond.trailers) rule.respond.trailers = respond.trailers;
    if (kept) Object.assign(rule.respond, respond.body_file ? { body_file: respond.body_file } : { body_base64: respond.body_base64 });
    else if (fields.body.value) rule.respond.body = written(fields.body, typeof respond.body === "string" ? respond.body : "");
    if (json && !rule.respond.headers.some(([name]) => name.toLowerCase() === "content-type")) rule.respond.headers.push(["content-type", "application/json"]);
  }
  return rule;
}
