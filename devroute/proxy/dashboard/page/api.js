// The server's API, as this page uses it.

import { follow as followEvents, requests } from "./server.js";

const { json, send } = requests("the server does not respond; is the VPN on?");
const path = encodeURIComponent;

export const status = () => json("status");
export const logout = () => send("POST", "logout");
export const end = (laptop, generation, reason) => send("DELETE", `../api/laptops/${path(laptop)}?generation=${generation}`, JSON.stringify({ reason }));
export const block = (subject, seconds, reason) => send("PUT", `../api/blocks/${path(subject)}`, JSON.stringify({ seconds, reason }));
export const unblock = (subject) => send("DELETE", `../api/blocks/${path(subject)}`);

export const follow = ({ state, ...on }) => followEvents("events", on, state, status);
