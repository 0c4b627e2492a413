// The demo's page: draws what the stream /events says, and sends nothing.

const byId = (id) => document.getElementById(id);
const state = { requests: [], ahead: 0 };  // ahead: seconds by which the server's clock is ahead of this one

const node = (tag, text = "", className = "") => {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
};

const now = () => Date.now() / 1000 + state.ahead;

const span = (seconds) =>
  seconds < 1 ? `${Math.max(0, Math.round(seconds * 1000))} ms` : seconds < 60 ? `${Math.floor(seconds)} s`
    : `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;

// Who answered, as the response's headers report it to the caller.
const WHO = {
  laptop: "a laptop answered",
  version: "another version answered",
  mirror: "the mesh's own service answered, a laptop got a copy",
  fallback: "the mesh's own service answered instead of the laptop",
  error: "an error",
};

const describeHop = (hop) => {
  if (hop.ended === null) return ["open", `open for ${span(now() - hop.began)}`];
  if (hop.status === null && !hop.app) return ["error", "no response"];
  return [hop.result, WHO[hop.result] ?? "the mesh's own service answered"];
};

const drawHop = (hop) => {
  const [kind, who] = describeHop(hop);
  const box = node("li", "", "hop");
  box.dataset.state = kind;
  box.append(node("b", hop.service), " ", node("span", who, "who"));
  // That the contract names others is to be seen here.
  if (hop.reason && !hop.reason.startsWith("names ")) box.append(node("small", hop.reason));
  if (hop.status !== null) box.append(node("small", `status ${hop.status} after ${span(hop.ended - hop.began)}`));
  return box;
};

const drawRequest = (request) => {
  const item = node("li");
  const head = node("div", "", "head");
  const at = node("time", new Date(request.began * 1000).toLocaleTimeString());
  const contract = request.contract ? `x-devroute: ${request.contract}` : "no contract";
  head.append(at, node("b", `${request.method} ${request.path}`), node("span", contract, "contract"));
  const chain = node("ol", "", "chain");
  chain.append(...request.hops.map(drawHop));
  item.append(head, chain);
  return item;
};

const draw = () => {
  byId("none").hidden = state.requests.length > 0;
  byId("requests").replaceChildren(...state.requests.map(drawRequest));
};

const stream = new EventSource("/events");
stream.addEventListener("about", (event) => {
  const about = JSON.parse(event.data);
  byId("services").textContent = about.services.join(" calls ");
  byId("up").textContent = about.up;
  byId("curl").textContent = about.curl;
  document.title = `devroute demo: ${about.services[1]}`;
});
stream.addEventListener("requests", (event) => {
  const { now: theirs, requests } = JSON.parse(event.data);
  state.ahead = theirs - Date.now() / 1000;
  state.requests = requests;
  byId("state").textContent = "live";
  draw();
});
stream.addEventListener("error", () => {
  byId("state").textContent = "the demo does not respond: has it ended?";
});

// The age of requests that are open.
setInterval(() => {
  if (state.requests.some((request) => request.hops.some((hop) => hop.ended === null))) draw();
}, 500);
