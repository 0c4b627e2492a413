// The splitter between list and details, moved by pointer or arrow keys. The browser stores its position.

const KEY = "devroute-list-width";
const [LEAST, MOST] = [22, 75]; // per cent of the window

export function splitter(handle) {
  const main = handle.parentElement;
  const set = (percent) => {
    const width = Math.min(MOST, Math.max(LEAST, percent));
    main.style.setProperty("--list", `${width}%`);
    handle.setAttribute("aria-valuenow", Math.round(width));
    return width;
  };
  handle.setAttribute("aria-valuemin", LEAST);
  handle.setAttribute("aria-valuemax", MOST);
  let width = set(Number(localStorage.getItem(KEY)) || 46);
  const keep = () => localStorage.setItem(KEY, String(width));
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    handle.onpointermove = (move) => {
      width = set((move.clientX / main.clientWidth) * 100);
    };
  });
  handle.addEventListener("pointerup", () => {
    handle.onpointermove = null;
    keep();
  });
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -2, ArrowRight: 2 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    width = set(width + step);
    keep();
  });
}
