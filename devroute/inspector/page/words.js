// What the page calls kinds, methods and comparisons; and the first value of a header.

export function shadowed({ differences }) {
  return differences === null || differences === undefined ? "" : differences ? "different" : "same";
}

// What stands in the place of a method: a gRPC call is always a POST, a WebSocket always a GET.
export const verb = ({ kind, method }) => ({ grpc: "gRPC", websocket: "WS" })[kind] ?? method;

export const KINDS = { http: "HTTP", grpc: "gRPC", websocket: "WebSocket", upgrade: "upgrade", sse: "event stream" };

export function header(headers, name) {
  return headers?.find(([each]) => each.toLowerCase() === name)?.[1] ?? "";
}
