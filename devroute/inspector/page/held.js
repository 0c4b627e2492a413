// Requests and responses that are held at breakpoints: the strip above the list, and the form of one.

import * as api from "./api.js";
import { byId, dialog, guarded, h, notice } from "./dom.js";
import { clock, plural, size } from "./format.js";
import { area, headerLines, input, labelled, methods, parseHeaders, problemLine, submitting, trying, written } from "./forms.js";

let held = [];
let shown = "";
let open = null; // the held message whose form is open: its id, and how to close it
const left = ({ until }) => Math.max(0, Math.round(until - Date.now() / 1000));
const minutes = (seconds) => `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;

// The server's event: the messages that are held now.
export function showHeld(data) {
  held = data.held;
  const strip = byId("held");
  const now = held.map(({ id, complete }) => `${id}${complete}`).join();
  if (now !== shown) strip.replaceChildren(h("b", {}, `${held.length} held`), ...held.map(entry)); // else it keeps the focus
  shown = now;
  strip.hidden = !held.length;
  if (open !== null && !held.some(({ id }) => id === open.id)) {
    open.close();
    notice("it is no longer held: it was continued, its time was up, or its caller gave up");
  }
  if (open !== null) open.update(held.find(({ id }) => id === open.id));
}

export const heldCount = () => held.length;

// Opens the oldest held message.
export const openHeld = () => (held.length ? edit(held[0]) : notice("nothing is held"));

setInterval(() => {
  for (const time of byId("held").querySelectorAll("time")) time.textContent = minutes(left({ until: Number(time.dataset.until) }));
}, 1000);

function entry(message) {
  const { id, side, rule, method, target, status, until } = message;
  const what = side === "response" ? `response ${status}` : "request";
  return h("span", { class: "held-one", title: `rule '${rule}'` },
    h("span", {}, `${what} · ${method} `, h("code", {}, target)),
    h("time", { "data-until": until, title: "until it continues by itself" }, minutes(left(message))),
    h("button", { type: "button", class: "quiet", onclick: () => edit(message) }, "Edit"),
    h("button", { type: "button", class: "quiet", onclick: guarded(() => api.decide(id, "continue", {})) }, "Continue"));
}

const edit = guarded(async (message) => {
  const { id, side, rule, service } = message;
  let detail = await api.held(id);
  const response = side === "response";
  const first = response ? input("held-status", detail.status, { inputmode: "numeric" }) : input("held-method", detail.method, { list: "held-methods" });
  const target = input("held-target", detail.target ?? message.target, { disabled: response });
  const before = headerLines(detail.headers);
  const headers = area("held-headers", before, 8);
  const body = area("held-body", detail.body ?? "", 10, { disabled: detail.body === null });
  const waits = h("p", { class: "facts" });
  const note = h("small", {}, bodyNote(message, detail));
  const trouble = problemLine();
  const { form, box, close } = dialog(`Held ${side} · ${service}`, [
    h("div", { class: "fields" },
      h("div", { class: "startline" }, response ? labelled("held-status", "Status", first) : labelled("held-method", "Method", [first, methods("held-methods")]), labelled("held-target", "Path and query", target)),
      labelled("held-headers", "Headers", headers, detail.redacted ? "[redacted-1] stands for a secret: leave it, and the original value is sent" : "one per line; devroute sets length and framing"),
      labelled("held-body", "Body", body), note),
    waits,
    trouble,
  ], [
    h("button", { type: "button", id: "held-abort", title: "End it, as if the app had closed the connection", onclick: () => trying(trouble, () => send("abort", {})) }, "Abort"),
    h("span", { class: "push facts" }, `Rule '${rule}'`),
    response ? null : h("button", { type: "button", id: "held-respond", title: "Write a response in place of the app's", onclick: () => write(message) }, "Respond…"),
    h("button", { id: "held-continue", class: "primary" }, "Continue"),
  ], true);
  const update = (now) => {
    waits.replaceChildren(waiting(now));
    if (now.complete && !message.complete) {
      message.complete = true;
      refresh();
    }
  };
  // The whole body has arrived since the form was opened.
  const refresh = async () => {
    detail = await api.held(id);
    body.disabled = detail.body === null;
    body.value = detail.body ?? "";
    note.textContent = bodyNote(message, detail);
  };
  const send = async (action, edits) => {
    open = null; // its end is no surprise
    try {
      await api.decide(id, action, edits);
    } catch (error) {
      open = { id, update, close };
      throw error;
    }
    close();
  };
  open = { id, update, close };
  box.addEventListener("close", () => (open = null), { once: true });
  update(held.find((each) => each.id === id) ?? message); // more of it may have arrived meanwhile
  submitting(form, trouble, async () => {
    const edits = {};
    if (response && Number(first.value) !== detail.status) edits.status = Number(first.value);
    if (!response && first.value.trim() !== detail.method) edits.method = first.value.trim();
    if (!response && target.value.trim() !== detail.target) edits.target = target.value.trim();
    if (headers.value !== before) edits.headers = parseHeaders(headers.value);
    const now = written(body, detail.body ?? "");
    if (!body.disabled && now !== (detail.body ?? "")) edits.body = now;
    await send("continue", edits);
  });
});

// The form of a response that is sent in place of the app's.
function write(message) {
  const status = input("held-status", 200, { inputmode: "numeric", autofocus: true });
  const headers = area("held-headers", "content-type: application/json", 4);
  const body = area("held-body", "", 10);
  const trouble = problemLine();
  const { form, box, close } = dialog(`Respond to ${message.method} ${message.target}`, [
    h("div", { class: "fields" }, labelled("held-status", "Status", status), labelled("held-headers", "Headers", headers), labelled("held-body", "Body", body)),
    trouble,
  ], [h("button", { type: "button", onclick: () => edit(message) }, "Back"), h("span", { class: "push facts" }, "The app does not get the request."), h("button", { class: "primary", id: "held-send" }, "Send")], true);
  open = { id: message.id, update: () => {}, close };
  box.addEventListener("close", () => (open = null), { once: true });
  submitting(form, trouble, async () => {
    const document = { status: Number(status.value), headers: parseHeaders(headers.value), body: body.value };
    await api.decide(message.id, "respond", document);
    open = null;
    close();
  });
}

const bodyNote = ({ complete, received }, { body, note }) =>
  body === null ? `${complete ? "" : `${size(received)} so far: `}${note}` : "";

function waiting({ until, caller_waits_s: caller, since, broken }) {
  const ends = caller ? `The caller gives up ${plural(Math.round(caller), "second")} after its request, at about ${clock(since + caller)}.` : "The caller may give up before; then it disappears here.";
  const failed = broken ? `The app broke off: ${broken}. ` : "";
  return `${failed}It continues by itself at ${clock(until)}, and when no page is open. The proxy waits for an hour unless its first_byte_timeout says otherwise. ${ends}`;
}
