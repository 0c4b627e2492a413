// WebSocket and gRPC messages as they arrive. Scrolls to the newest, at the bottom.

import { asJson, hex } from "./body.js";
import { h, setText } from "./dom.js";
import { duration, plural, size } from "./format.js";
import { tree } from "./json.js";
import { decode, format } from "./protobuf.js";

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const digits = (bytes) => `${[...bytes.subarray(0, 24)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}${bytes.length > 24 ? " …" : ""}`;

export class MessagesView {
  name = "Messages";

  constructor() {
    this.earlier = h("p", { class: "none", hidden: true });
    this.rows = h("ol", { class: "message-list" });
    this.none = h("p", { class: "none" }, "No messages yet.");
    this.element = h("div", { class: "side messages" }, this.earlier, this.rows, this.none);
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
      Object.assign(this, { id: exchange.id, first: dropped, next: dropped });
      this.rows.replaceChildren();
    }
    // Messages are numbered from the first of the exchange; the server sends the newest.
    for (; this.first < dropped; this.first += 1) this.rows.firstElementChild?.remove();
    this.next = Math.max(this.next, dropped);
    for (const message of messages.slice(this.next - dropped)) this.rows.append(row(message, exchange.kind));
    this.next = dropped + messages.length;
    this.none.hidden = this.next > 0;
    this.earlier.hidden = !dropped;
    setText(this.earlier, `${plural(dropped, "earlier message")} not shown`);
    if (atEnd && exchange.state === "open") scroller.scrollTop = scroller.scrollHeight;
  }
}

function row(message, kind) {
  const { from_client: out, opcode, compressed } = message;
  const bytes = message.base64 ? fromBase64(message.text) : new TextEncoder().encode(message.text);
  const cut = bytes.length < message.size;
  const fields = kind === "grpc" && !compressed && !cut ? decode(bytes) : undefined;
  const text = kind === "grpc" || opcode === "binary" || message.base64 ? undefined : message.text;
  const preview = message.words ? message.words : fields ? format(fields).slice(0, 300) : text !== undefined ? text.slice(0, 300) : digits(bytes);
  const inside = h("div", { class: "message-body" });
  const fold = h("details", {}, h("summary", {},
    h("span", { class: "way", title: out ? "from the caller" : "from the app" }, h("span", { "aria-hidden": "true" }, out ? "→" : "←"), h("span", { class: "spoken" }, out ? "from the caller" : "from the app")),
    h("span", { class: "opcode" }, kind === "grpc" ? "message" : opcode),
    h("span", { class: "preview" }, preview || "empty"),
    h("span", { class: "num" }, size(message.size)), h("span", { class: "num" }, `+${duration(message.at_ms)}`)), inside);
  fold.addEventListener("toggle", () => {
    if (!fold.open || inside.childElementCount) return;
    const parsed = asJson(text);
    if (fields?.length) inside.append(h("pre", {}, format(fields, "")));
    inside.append(parsed ? tree(parsed.value) : text === undefined ? hex(bytes) : h("pre", {}, text));
    if (compressed) inside.append(h("p", { class: "none" }, "Compressed: the data could not be decompressed."));
    if (cut) inside.append(h("p", { class: "none" }, `Only the beginning of ${size(message.size)} was stored.`));
  });
  return h("li", { class: out ? "out" : "in", "data-opcode": opcode }, fold);
}
