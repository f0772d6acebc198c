// The document as text: one element a token, which arrow keys walk through.

import { element, spelled, visible } from "./elements.js";

// What a token looks like in the text: line ends are seen and are there.
function contentOf(side, at) {
  const text = side.text(at);
  if (side.special(at) || text === "") return [spelled(text)];
  return visible(text)
    .split(/(\n)/)
    .flatMap((part) =>
      part === "\n" ? [element("span", { className: "sign", ariaHidden: "true" }, "↵"), "\n"] : part === "" ? [] : [part],
    );
}

export class Text {
  constructor(box, { chosen, pointed }) {
    this.box = box;
    this.tokens = [];
    this.chosen = chosen;
    this.selected = -1;
    box.addEventListener("click", (event) => this.on(event, (at) => this.select(at, { focus: true })));
    box.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse") this.on(event, pointed);
    });
    box.addEventListener("pointerleave", () => pointed(-1));
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("focusin", (event) => this.on(event, (at) => this.select(at)));
  }

  on(event, use) {
    const token = event.target.closest?.(".token");
    if (token) use(Number(token.dataset.at));
  }

  show(document) {
    const side = document.first;
    this.tokens = Array.from({ length: side.length }, (_, at) => {
      const kinds = ["token"];
      if (side.rows[at] < 0) kinds.push("uncounted");
      if (side.special(at)) kinds.push("special");
      return element(
        "span",
        { className: kinds.join(" "), role: "option", tabIndex: -1, ariaSelected: "false", "data-at": at },
        ...contentOf(side, at),
      );
    });
    this.box.replaceChildren(...this.tokens);
    this.selected = -1;
  }

  shade(document, measure) {
    this.tokens.forEach((token, at) => {
      const value = measure.value(document, at);
      const known = Number.isFinite(value);
      token.style.setProperty("--amount", known ? measure.shade(value).toFixed(3) : "0");
      token.style.setProperty("--hue", known && measure.signed && value < 0 ? "var(--other)" : "var(--shade)");
      const told = known ? `${measure.label} ${measure.words(value)}` : document.first.rows[at] < 0 ? "not counted" : "not known";
      token.setAttribute("aria-label", `${spelled(document.first.text(at))}, ${told}`);
    });
  }

  select(at, { focus = false, show = false } = {}) {
    const token = this.tokens[at];
    if (token === undefined) return;
    if (at !== this.selected) {
      const before = this.tokens[this.selected];
      before?.setAttribute("aria-selected", "false");
      if (before) before.tabIndex = -1;
      token.setAttribute("aria-selected", "true");
      token.tabIndex = 0;
      this.selected = at;
      this.chosen(at);
    }
    if (focus && document.activeElement !== token) token.focus({ preventScroll: true });
    if (focus || show) token.scrollIntoView({ block: "nearest" });
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const moves = {
      ArrowLeft: () => this.selected - 1,
      ArrowRight: () => this.selected + 1,
      ArrowUp: () => this.line(-1),
      ArrowDown: () => this.line(1),
      Home: () => 0,
      End: () => this.tokens.length - 1,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const at = Math.min(this.tokens.length - 1, Math.max(0, moves[event.key]()));
    this.select(at, { focus: true });
  }

  // The token above or below: of the nearest line that way the one that is nearest.
  line(way) {
    const middle = (token) => {
      const { left, right, top, bottom } = token.getClientRects()[0] ?? token.getBoundingClientRect();
      return [(left + right) / 2, (top + bottom) / 2];
    };
    const [x, y] = middle(this.tokens[this.selected]);
    let best = this.selected;
    let score = Infinity;
    let row = null;
    for (let at = this.selected + way; at >= 0 && at < this.tokens.length; at += way) {
      const [there, height] = middle(this.tokens[at]);
      if ((height - y) * way < 4) continue;
      row ??= height;
      if (Math.abs(height - row) > 4) break;
      if (Math.abs(there - x) < score) [best, score] = [at, Math.abs(there - x)];
    }
    return best;
  }
}
