// Edit and replay: a form for the request, which devroute then sends to the app, or out again to a service of the mesh.

import * as api from "./api.js";
import { asText } from "./body.js";
import { dialog, guarded, h, notice } from "./dom.js";
import { size } from "./format.js";
import { area, headerLines, input, labelled, methods, parseHeaders, problemLine, submitting, written } from "./forms.js";
import { outgoing } from "./words.js";

// Headers that devroute derives from the body.
const FRAMING = ["content-length", "transfer-encoding"];

export async function openEdit(id, send) {
  const exchange = await api.detail(id);
  const editable = exchange.kind === "grpc" ? await messagesOf(exchange) : await bodyOf(exchange);
  const { text } = editable;
  const method = input("edit-method", exchange.method, { list: "edit-methods", required: true });
  const target = input("edit-target", exchange.target, { required: true, autofocus: true });
  const headers = area("edit-headers", headerLines(exchange.request_headers.filter(([name]) => !FRAMING.includes(name.toLowerCase()))), 8);
  const body = area("edit-body", text, 8, { disabled: text === undefined });
  const trouble = problemLine();
  const { form, close } = dialog(`Edit and replay #${id}`, [
    h("div", { class: "fields" },
      h("div", { class: "startline" }, labelled("edit-method", "Method", [method, methods("edit-methods")]), labelled("edit-target", "Path and query", target)),
      labelled("edit-headers", "Headers", headers, exchange.redacted.length ? `Redacted before storage: ${exchange.redacted.join(", ")}. Enter the values again if the app needs them.` : "one per line; devroute sets length and framing"),
      labelled("edit-body", editable.label, body, editable.note)),
    trouble,
  ], [h("span", { class: "push facts" }, outgoing(exchange) ? `Sent to ${exchange.service} in the mesh.` : `Sent to the app of ${exchange.service} on this laptop, not through the mesh.`), h("button", { type: "button", onclick: () => close() }, "Cancel"), h("button", { class: "primary" }, "Send")], true);
  submitting(form, trouble, async () => {
    const edits = { method: method.value.trim(), target: target.value.trim(), headers: parseHeaders(headers.value) };
    const now = written(body, text ?? "");
    if (!body.disabled && now !== text) edits[editable.edit] = now;
    await send(id, edits);
    close();
  });
}

// What can be edited of a request's body: its text (undefined: nothing), and the edit that the text is.
async function bodyOf({ id, request_body: meta }) {
  const bytes = meta.kept ? await api.body(id, "request") : new Uint8Array();
  const text = meta.truncated ? undefined : asText(bytes);
  return { text, edit: "body", label: "Body", note: text === undefined ? `${size(meta.size)} of binary or truncated data: sent as stored` : "" };
}

async function messagesOf({ id, messages_dropped: dropped }) {
  const { messages, request_type: type, client_streaming: streaming, problem } = await api.messages(id);
  const sent = messages.filter(({ from_client: out }) => out);
  const undecoded = sent.find(({ json }) => json === null);
  if (!type || undecoded || dropped) {
    return { edit: "messages", label: "Messages", note: `${problem || `Not decoded: ${undecoded?.problem ?? "there are too many"}.`} Sent as stored.` };
  }
  const documents = sent.map(({ json }) => JSON.parse(json));
  const text = JSON.stringify(streaming ? documents : documents[0] ?? {}, null, 2);
  const lost = [text.includes('"@unknown"') && "Fields that the schema does not have", text.includes('"[redacted]"') && "[redacted] values"].filter(Boolean);
  const note = lost.length ? `${lost.join(" and ")} are left out of an edited message: enter values if the app needs them.` : "JSON, encoded by the schema";
  return { text, edit: "messages", label: streaming ? `List of ${type}` : type, note };
}

export function importFile(input) {
  input.value = "";
  input.onchange = guarded(async () => {
    const [file] = input.files;
    if (!file) return;
    const { imported, skipped, reasons } = await api.load(file);
    const without = skipped ? `; ${skipped} skipped: ${reasons.join("; ")}` : "";
    notice(`${imported} requests imported from ${file.name}${without}`, skipped ? "bad" : undefined);
  });
  input.click();
}
