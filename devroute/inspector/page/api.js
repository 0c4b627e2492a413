// The server's API. A failure throws an Error with a message for the user.

import { follow as followEvents, requests } from "./server.js";

const { call, json, send } = requests("devroute up does not respond; is it still running?");
const post = (path, body) => send("POST", path, JSON.stringify(body));
const put = (path, body) => send("PUT", path, JSON.stringify(body));

export const detail = (id) => json(`/api/exchanges/${id}`);
export const curl = (id, to) => json(`/api/exchanges/${id}/curl?to=${to}`);
// The ids of the exchanges that match a query, of `ids` or of all, and the query's terms.
export const search = (query, ids, signal) => json(`/api/search?${new URLSearchParams(ids ? { q: query, ids: ids.join() } : { q: query })}`, { signal });
export const suggestions = async (before, after) => (await json(`/api/query/suggestions?${new URLSearchParams({ before, after })}`)).suggestions;
export const switched = async (query, field, value, negated) => (await json(`/api/query/switched?${new URLSearchParams({ q: query, field, value, ...(negated && { negated: 1 }) })}`)).query;
export const messages = (id, from = 0) => json(`/api/exchanges/${id}/messages?from=${from}`);
export const compare = (a, b) => json(`/api/compare?a=${a}&b=${b}`);
export const replay = (id, edits = {}) => post(`/api/exchanges/${id}/replay`, edits);
export const pause = (paused) => post("/api/pause", { paused });
export const clear = () => json("/api/exchanges", { method: "DELETE" });
export const load = (file) => send("POST", "/api/har", file);

// The rules, and what they hold.
export const rule = (id) => json(`/api/rules/${id}`);
export const rulesYaml = async () => (await call("/api/rules.yaml")).text();
export const recordedRule = (id) => json(`/api/exchanges/${id}/rule`);
export const addRule = (rule) => post("/api/rules", rule);
export const changeRule = (id, rule) => put(`/api/rules/${id}`, rule);
export const enableRule = (id, enabled) => put(`/api/rules/${id}`, { enabled });
export const deleteRule = (id) => json(`/api/rules/${id}`, { method: "DELETE" });
export const switchRules = (on) => put("/api/rules", { on });
export const held = (id) => json(`/api/held/${id}`);
export const decide = (id, action, edits) => post(`/api/held/${id}/${action}`, edits);

export const bodyUrl = (id, side) => `/api/exchanges/${id}/${side}-body`;
export async function body(id, side, from = 0) {
  return new Uint8Array(await (await call(`${bodyUrl(id, side)}?decoded=1&from=${from}`)).arrayBuffer());
}

// Events as they happen. After each (re)connection, the server sends all captures again.
export const follow = ({ state, ...on }) => followEvents("/api/events", on, state, () => json("/api/status"));
