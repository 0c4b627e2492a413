// A virtual list: rows of equal height, of which only the visible ones exist, for 5,000 exchanges or 1 MB of hex.

import { h } from "./dom.js";

const OVERSCAN = 8;

export class Rows {
  // `make()` returns an empty row, `fill(row, index)` fills it with an item.
  constructor(viewport, height, make, fill) {
    Object.assign(this, { viewport, height, make, fill, length: 0, pool: [] });
    this.space = h("div", { class: "space", role: "presentation" });
    viewport.append(this.space);
    viewport.addEventListener("scroll", () => this.soon(), { passive: true });
    this.sizes = new ResizeObserver(() => this.soon());
    this.sizes.observe(viewport);
  }

  soon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  draw() {
    const { height, pool, space, viewport } = this;
    space.style.height = `${this.length * height}px`;
    const first = Math.max(0, Math.floor(viewport.scrollTop / height) - OVERSCAN);
    const last = Math.min(this.length, Math.ceil((viewport.scrollTop + viewport.clientHeight) / height) + OVERSCAN);
    while (pool.length < last - first) {
      const row = this.make();
      pool.push(row);
      space.append(row);
    }
    for (const [n, row] of pool.entries()) {
      const index = first + n;
      row.hidden = index >= last;
      if (row.hidden) {
        row.removeAttribute("id");
        continue;
      }
      row.style.transform = `translateY(${index * height}px)`;
      this.fill(row, index);
    }
  }

  reveal(index) {
    const { height, viewport } = this;
    const top = index * height;
    if (top < viewport.scrollTop) viewport.scrollTop = top;
    else if (top + height > viewport.scrollTop + viewport.clientHeight) viewport.scrollTop = top + height - viewport.clientHeight;
  }
}
