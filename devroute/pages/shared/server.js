// Requests to the page's own server, and its events. A failure throws an Error with a message for the user.

// `silent`: the message where there is no response.
export function requests(silent) {
  async function call(path, options = {}) {
    let response;
    try {
      response = await fetch(path, { credentials: "same-origin", ...options });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Error(silent);
    }
    if (response.ok) return response;
    let text = `${response.status} ${response.statusText}`;
    let code;
    try {
      const error = await response.json();
      code = error.code;
      text = error.hint ? `${error.message} (${error.hint})` : error.message;
    } catch { /* no JSON error in the body */ }
    throw Object.assign(new Error(text), { status: response.status, code });
  }
  const json = async (path, options) => (await call(path, options)).json();
  // `body`: JSON, as text or a file.
  const send = (method, path, body) => json(path, { method, headers: { "content-type": "application/json" }, body });
  return { call, json, send };
}

const RETRY_MS = 1000;

// Events as they happen, for as long as the page is open: it goes on when the server was restarted. After each (re)connection the
// server sends everything again. `on`: functions by the event's name, which get its data. `state` gets live, lost or locked;
// `check` is a request that fails with 401 once the session has ended.
export function follow(url, on, state, check) {
  const source = new EventSource(url);
  for (const [name, take] of Object.entries(on)) source.addEventListener(name, (event) => take(event.data ? JSON.parse(event.data) : null));
  source.addEventListener("open", () => state("live"));
  source.addEventListener("error", async () => {
    if (source.readyState !== EventSource.CLOSED) return state("lost");
    // An error response ends the EventSource: find out whether to reconnect or to ask for a new link.
    try {
      await check();
      state("lost");
    } catch (error) {
      state(error.status === 401 ? "locked" : "lost");
    }
    setTimeout(() => follow(url, on, state, check), RETRY_MS);
  });
}
