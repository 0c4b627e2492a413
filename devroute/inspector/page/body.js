// Shows a body as JSON, text, image or hex, and updates it while it arrives.

import * as api from "./api.js";
import { copy, h, notice } from "./dom.js";
import { plural, size } from "./format.js";
import * as json from "./json.js";
import { Rows } from "./rows.js";
import { header } from "./words.js";

const TEXT_AT_ONCE = 200_000; // characters; the rest on request
const HEX_ROW = 20;
// Raster images only: an SVG can hold scripts.
const IMAGES = [["image/png", [0x89, 0x50, 0x4e, 0x47]], ["image/jpeg", [0xff, 0xd8, 0xff]], ["image/gif", [0x47, 0x49, 0x46, 0x38]], ["image/webp", [0x52, 0x49, 0x46, 0x46]]];

const imageType = (bytes) => IMAGES.find(([, magic]) => magic.every((byte, n) => bytes[n] === byte))?.[0];

// Bytes as text, or undefined if they are not text.
export function asText(bytes, complete = true) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: !complete });
    return /[\u0000-\u0008\u000e-\u001a\u001c-\u001f]/.test(text.slice(0, 4096)) ? undefined : text;
  } catch {
    return undefined;
  }
}

export function asJson(text) {
  if (text === undefined || !/^\s*[[{"]/.test(text)) return undefined;
  try {
    return { value: json.parse(text) };
  } catch {
    return undefined;
  }
}

export class BodyView {
  // `side` is "request" or "response".
  constructor(side) {
    Object.assign(this, { side, bytes: new Uint8Array(), have: 0, id: null, chosen: null });
    this.views = h("div", { class: "views", role: "group", "aria-label": "Show the body as" });
    this.facts = h("span", { class: "facts" });
    this.copying = h("button", { type: "button", class: "quiet", onclick: () => copy(this.text ?? "", "body") }, "Copy");
    this.saving = h("a", { class: "button quiet", download: "" }, "Save");
    this.place = h("div", { class: "body", tabindex: "0", role: "region", "aria-label": `Body of the ${side}` });
    this.element = h("section", { class: "body-section" }, h("div", { class: "bar" }, h("h3", {}, "Body"), this.views, this.facts, h("span", { class: "push" }), this.copying, this.saving), this.place);
  }

  // Called for each change of the exchange; fetches only the new part of the body.
  async update(exchange) {
    const meta = exchange[`${this.side}_body`];
    if (this.id !== exchange.id) Object.assign(this, { id: exchange.id, bytes: new Uint8Array(), have: 0, chosen: null, drawn: null, fetching: false });
    this.meta = meta;
    this.type = header(exchange[`${this.side}_headers`], "content-type");
    this.encoding = header(exchange[`${this.side}_headers`], "content-encoding");
    this.saving.href = api.bodyUrl(exchange.id, this.side);
    if (meta.kept > this.have && !this.fetching) {
      this.fetching = true;
      try {
        // An encoded body is fetched decoded and as a whole, other bodies from where the last fetch ended.
        const from = this.encoding ? 0 : this.bytes.length;
        const fresh = await api.body(exchange.id, this.side, from);
        if (this.id === exchange.id) {
          const joined = new Uint8Array(from + fresh.length);
          joined.set(this.bytes.subarray(0, from));
          joined.set(fresh, from);
          this.bytes = joined;
          this.have = this.encoding ? meta.kept : joined.length;
        }
      } catch (error) {
        notice(error.message, "bad");
      } finally {
        this.fetching = false;
      }
    }
    this.draw();
  }

  draw() {
    const { bytes, meta } = this;
    const state = `${bytes.length} ${meta.complete} ${meta.size} ${this.chosen}`;
    if (state === this.drawn) return;
    this.drawn = state;
    this.text = asText(bytes, meta.complete && !meta.truncated);
    const possible = this.possible();
    const mode = possible.includes(this.chosen) ? this.chosen : possible[0];
    this.views.replaceChildren(...(possible.length > 1 && bytes.length ? possible.map((each) =>
      h("button", { type: "button", "aria-pressed": String(each === mode), onclick: () => { this.chosen = each; this.draw(); } }, each)) : []));
    const facts = [size(meta.size)];
    if (meta.truncated) facts.push(`first ${size(meta.kept)} stored`);
    if (!meta.complete) facts.push("incomplete");
    if (meta.note) facts.push(meta.note);
    if (this.encoding) facts.push(this.encoding);
    if (this.type) facts.push(this.type.split(";")[0]);
    this.facts.textContent = meta.size || !meta.complete ? facts.join(" · ") : "";
    this.copying.hidden = this.text === undefined || !bytes.length;
    this.saving.hidden = !bytes.length;
    if (!bytes.length) return void this.place.replaceChildren(h("p", { class: "none" }, meta.note ? meta.note : meta.size ? "Not stored." : meta.complete ? "No body." : "Waiting for data."));
    this[`draw${mode}`]();
  }

  possible() {
    const found = [];
    if (imageType(this.bytes)) found.push("Image");
    this.parsed = this.meta.complete && !this.meta.truncated ? asJson(this.text) : undefined;
    if (this.parsed) found.push("JSON");
    if (this.text !== undefined) found.push("Text");
    found.push("Hex");
    return found;
  }

  drawJSON() {
    this.place.replaceChildren(json.tree(this.parsed.value));
  }

  drawText() {
    const { place, text } = this;
    const atEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 4;
    const shown = this.whole === this.id ? text : text.slice(0, TEXT_AT_ONCE);
    const old = place.firstElementChild;
    if (old?.tagName === "PRE" && place.childElementCount === 1 && shown.startsWith(old.textContent)) old.append(shown.slice(old.textContent.length));
    else place.replaceChildren(h("pre", {}, shown));
    if (shown.length < text.length) {
      place.append(h("button", { type: "button", class: "more", onclick: () => { this.whole = this.id; this.drawn = null; this.draw(); } }, `${plural(text.length - shown.length, "more character")}`));
    }
    if (atEnd && !this.meta.complete) place.scrollTop = place.scrollHeight;
  }

  drawImage() {
    const url = URL.createObjectURL(new Blob([this.bytes], { type: imageType(this.bytes) }));
    const facts = h("figcaption", {});
    const image = h("img", { alt: `the body of the ${this.side}`, src: url,
      onload: () => { facts.textContent = `${image.naturalWidth} × ${image.naturalHeight}`; URL.revokeObjectURL(url); },
      onerror: () => { facts.textContent = "the browser cannot show this image"; URL.revokeObjectURL(url); } });
    this.place.replaceChildren(h("figure", {}, image, facts));
  }

  drawHex() {
    this.place.replaceChildren(hex(this.bytes));
  }
}

export function hex(bytes) {
  const viewport = h("div", { class: "hex", tabindex: "0", "aria-label": "Bytes in hexadecimal" });
  viewport.style.height = `${Math.min(bytes.length / 16 + 1, 24) * HEX_ROW}px`;
  const rows = new Rows(viewport, HEX_ROW, () => h("div", { class: "hexrow" }), (row, index) => {
    const part = [...bytes.subarray(index * 16, index * 16 + 16)];
    const digits = part.map((byte) => byte.toString(16).padStart(2, "0"));
    const columns = `${digits.slice(0, 8).join(" ").padEnd(23)}  ${digits.slice(8).join(" ").padEnd(23)}`;
    const letters = part.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    row.replaceChildren(h("span", { class: "offset" }, (index * 16).toString(16).padStart(6, "0")), `  ${columns}  `, h("span", { class: "letters" }, letters));
  });
  rows.length = Math.ceil(bytes.length / 16);
  rows.soon();
  return viewport;
}
