// What the page calls kinds, methods, directions and comparisons; and the first value of a header.

export function shadowed({ differences }) {
  return differences === null || differences === undefined ? "" : differences ? "different" : "same";
}

// What stands in the place of a method: a gRPC call is always a POST, a WebSocket always a GET.
export const verb = ({ kind, method }) => ({ grpc: "gRPC", websocket: "WS" })[kind] ?? method;

export const KINDS = { http: "HTTP", grpc: "gRPC", websocket: "WebSocket", upgrade: "upgrade", sse: "event stream" };

// An outgoing request goes from this laptop to a service of the mesh.
export const outgoing = ({ direction }) => direction === "out";

// The two ends of an exchange, as it looks from this laptop.
export const ends = (exchange) => (outgoing(exchange) ? { client: "app", server: "service" } : { client: "caller", server: "app" });

export function header(headers, name) {
  return headers?.find(([each]) => each.toLowerCase() === name)?.[1] ?? "";
}
