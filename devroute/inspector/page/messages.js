// WebSocket and gRPC messages as they arrive. Scrolls to the newest, at the bottom.
//
// The server decodes those of gRPC, by their schema where there is one: they are fetched while the tab is open.

import * as api from "./api.js";
import { asJson, hex } from "./body.js";
import { copy, h, setText } from "./dom.js";
import { duration, plural, size } from "./format.js";
import { parse, tree } from "./json.js";
import { ends } from "./words.js";

const PREVIEW = 300; // characters

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const digits = (bytes) => `${[...bytes.subarray(0, 24)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}${bytes.length > 24 ? " …" : ""}`;

export class MessagesView {
  name = "Messages";

  constructor() {
    this.schema = h("p", { class: "schema", hidden: true });
    this.earlier = h("p", { class: "none", hidden: true });
    this.rows = h("ol", { class: "message-list" });
    this.none = h("p", { class: "none" }, "No messages yet.");
    this.details = h("section", { class: "status-details", hidden: true });
    this.element = h("div", { class: "side messages" }, this.schema, this.earlier, this.rows, this.none, this.details);
  }

  applies({ messages, kind }) {
    return messages > 0 || kind === "websocket" || kind === "grpc";
  }

  label({ messages }) {
    return String(messages);
  }

  update(exchange) {
    const { message_list: messages, messages_dropped: dropped } = exchange;
    const scroller = this.element.parentElement;
    const atEnd = scroller && scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 8;
    if (this.id !== exchange.id) {
      Object.assign(this, { id: exchange.id, first: dropped, next: dropped, shown: [], decoded: dropped, asked: "" });
      this.rows.replaceChildren();
      this.schema.hidden = this.details.hidden = true;
    }
    // Messages are numbered from the first of the exchange; the server sends the newest.
    for (; this.first < dropped; this.first += 1) this.shown.shift()?.element.remove();
    this.next = Math.max(this.next, dropped);
    for (const message of messages.slice(this.next - dropped)) {
      const added = new Row(message, exchange);
      this.shown.push(added);
      this.rows.append(added.element);
    }
    this.next = dropped + messages.length;
    this.none.hidden = this.next > 0;
    this.earlier.hidden = !dropped;
    setText(this.earlier, `${plural(dropped, "earlier message")} not shown`);
    if (exchange.kind === "grpc") this.decode(exchange);
    if (atEnd && exchange.state === "open") scroller.scrollTop = scroller.scrollHeight;
  }

  // Fetches the messages that are not decoded yet; at the end of the call also the details of its status.
  async decode(exchange) {
    const { id, state } = this.latest = exchange;
    const wanted = `${id} ${this.next} ${state}`;
    if (this.asked === wanted || this.fetching) return;
    this.fetching = true;
    this.asked = wanted;
    try {
      const found = await api.messages(id, this.decoded);
      if (id === this.id) this.take(found);
    } catch (error) {
      this.schema.hidden = false;
      setText(this.schema, error.message);
    } finally {
      this.fetching = false;
    }
    if (this.latest.id === this.id) this.decode(this.latest); // what has come meanwhile
  }

  take(found) {
    for (const [n, message] of found.messages.entries()) this.shown[found.first + n - this.first]?.decode(message);
    // The server may know messages whose event has not arrived yet: they are asked for again when their rows stand.
    this.decoded = Math.min(found.first + found.messages.length, this.next);
    this.explain(found);
  }

  explain({ request_type: request, response_type: response, source, problem, status_details: details }) {
    this.schema.hidden = false;
    this.schema.dataset.kind = request ? "known" : "unknown";
    this.schema.replaceChildren(...(request ? [h("b", {}, request), " → ", h("b", {}, response), `, by ${source}`] : [problem]));
    this.details.hidden = !details;
    if (details) this.details.replaceChildren(h("h3", {}, "Details of the status"), tree(parse(details)));
  }
}

// One message. One of gRPC has no text until `decode` is called.
class Row {
  constructor(message, exchange) {
    const { from_client: out, opcode } = message;
    const grpc = exchange.kind === "grpc";
    Object.assign(this, { message, grpc, decoded: null });
    this.bytes = message.base64 ? fromBase64(message.text) : new TextEncoder().encode(message.text);
    this.text = grpc || opcode === "binary" || message.base64 ? undefined : message.text;
    const preview = grpc ? "" : message.words || (this.text === undefined ? digits(this.bytes) : this.text.slice(0, PREVIEW)) || "empty";
    const { client, server } = ends(exchange);
    const way = `from the ${out ? client : server}`;
    this.preview = h("span", { class: "preview" }, preview);
    this.inside = h("div", { class: "message-body" });
    this.fold = h("details", {}, h("summary", {},
      h("span", { class: "way", title: way }, h("span", { "aria-hidden": "true" }, out ? "→" : "←"), h("span", { class: "spoken" }, way)),
      h("span", { class: "opcode" }, grpc ? "message" : opcode), this.preview,
      h("span", { class: "num" }, size(message.size)), h("span", { class: "num" }, `+${duration(message.at_ms)}`)), this.inside);
    this.fold.addEventListener("toggle", () => this.fill());
    this.element = h("li", { class: out ? "out" : "in", "data-opcode": opcode }, this.fold);
  }

  decode(decoded) {
    this.decoded = decoded;
    const { json, text, problem } = decoded;
    setText(this.preview, (json ?? text?.replace(/\s+/g, " ") ?? (problem || digits(this.bytes))).slice(0, PREVIEW) || "empty");
    this.inside.replaceChildren();
    this.fill();
  }

  fill() {
    if (!this.fold.open || this.inside.childElementCount || (this.grpc && !this.decoded)) return;
    const { json, text, problem, redacted } = this.decoded ?? {};
    const shown = json ?? this.text;
    const parsed = asJson(shown);
    if (parsed) this.inside.append(tree(parsed.value));
    else if (shown !== undefined) this.inside.append(h("pre", {}, shown));
    else this.inside.append(...(text ? [h("pre", {}, text)] : []), hex(this.bytes));
    if (json) this.inside.append(h("button", { type: "button", class: "quiet", onclick: () => copy(JSON.stringify(JSON.parse(json), null, 2), "message") }, "Copy"));
    if (redacted?.length) this.inside.append(h("p", { class: "none" }, `Redacted, and removed: ${redacted.join(", ")}.`));
    if (problem) this.inside.append(h("p", { class: "none" }, `Not decoded: ${problem}.`));
    else if (!this.grpc && this.message.compressed) this.inside.append(h("p", { class: "none" }, "Compressed: the data could not be decompressed."));
    if (!json && this.bytes.length < this.message.size) this.inside.append(h("p", { class: "none" }, `Only the beginning of ${size(this.message.size)} was stored.`));
  }
}
