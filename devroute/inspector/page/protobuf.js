// Decodes protobuf without its schema (https://protobuf.dev/programming-guides/encoding/): field numbers, and
// values that are guessed to be numbers, text, messages or bytes.

import { asText } from "./body.js";

const DEPTH = 8;

// [[field, value], …], where a value is a number as text, a string, bytes or such a list; undefined if the bytes
// are not protobuf.
export function decode(bytes, depth = 0) {
  const fields = [];
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      if (at >= bytes.length) return undefined;
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
    return undefined;
  };
  const fixed = (length) => {
    if (at + length > bytes.length) return undefined;
    const view = new DataView(bytes.buffer, bytes.byteOffset + at, length);
    at += length;
    const [whole, real] = length === 4 ? [view.getUint32(0, true), view.getFloat32(0, true)] : [view.getBigUint64(0, true), view.getFloat64(0, true)];
    return new Plain(Math.abs(real) > 1e-6 && Math.abs(real) < 1e12 ? `${whole} (${Number(real.toPrecision(length === 4 ? 7 : 15))})` : `${whole}`);
  };
  while (at < bytes.length) {
    const tag = varint();
    const field = tag === undefined ? 0 : Number(tag >> 3n);
    let value;
    if (field < 1 || field > 536_870_911) return undefined;
    const kind = Number(tag & 7n);
    if (kind === 0) {
      const number = varint();
      value = number === undefined ? undefined : new Plain(String(number));
    } else if (kind === 1) value = fixed(8);
    else if (kind === 5) value = fixed(4);
    else if (kind === 2) {
      const length = varint();
      if (length === undefined || at + Number(length) > bytes.length) return undefined;
      const part = bytes.subarray(at, at + Number(length));
      at += Number(length);
      const text = asText(part);
      value = text !== undefined ? text : (depth < DEPTH && part.length > 1 && decode(part, depth + 1)) || part;
    }
    if (value === undefined) return undefined;
    fields.push([field, value]);
  }
  return fields;
}

class Plain {
  constructor(text) {
    this.text = text;
  }
}

// On one line for the list of messages, or with `indent` on several lines.
export function format(fields, indent = null) {
  const lines = fields.map(([field, value]) => {
    if (Array.isArray(value)) return indent === null ? `${field} { ${format(value)} }` : `${indent}${field} {\n${format(value, `${indent}  `)}\n${indent}}`;
    const shown = value instanceof Plain ? value.text : typeof value === "string" ? JSON.stringify(value) : [...value.subarray(0, 64)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    return `${indent ?? ""}${field}: ${shown}`;
  });
  return lines.join(indent === null ? "  " : "\n");
}
