// The document in one look: the measure of each token, in order. A click or arrow keys lead there.

import { drawn } from "./elements.js";

const HEIGHT = 60;

export class Curve {
  constructor(box, chosen) {
    this.box = box;
    this.length = 0;
    box.addEventListener("pointerdown", (event) => {
      const { left, width } = box.getBoundingClientRect();
      chosen(Math.min(this.length - 1, Math.floor(((event.clientX - left) / width) * this.length)));
    });
    box.addEventListener("keydown", (event) => {
      const now = Number(box.getAttribute("aria-valuenow")) - 1;
      const page = Math.max(1, Math.round(this.length / 10));
      const to = {
        ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1,
        PageUp: now + page, PageDown: now - page, Home: 0, End: this.length - 1,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      chosen(Math.min(this.length - 1, Math.max(0, to)));
    });
  }

  show(document, measure) {
    this.length = document.first.length;
    const step = 1000 / this.length;
    const base = measure.signed ? HEIGHT / 2 : HEIGHT;
    const scale = (value) => (base * Math.min(Math.abs(value), measure.most)) / measure.most;
    const paths = { above: "", below: "", ghost: "" };
    const line = [];
    for (let at = 0; at < this.length; at += 1) {
      const value = measure.value(document, at);
      const x = at * step;
      const width = step * (this.length > 400 ? 1 : 0.82);
      if (!Number.isFinite(value)) {
        if (document.first.rows[at] < 0) paths.ghost += `M${x} ${HEIGHT}v-2h${width}v2z`;
        continue;
      }
      const height = Math.max(0.6, scale(value));
      if (value < 0) paths.below += `M${x} ${base}v${height}h${width}v${-height}z`;
      else paths.above += `M${x} ${base}v${-height}h${width}v${height}z`;
      const other = measure.second?.(document, at);
      if (Number.isFinite(other)) line.push(`${x + step / 2},${base - scale(other)}`);
    }
    const svg = drawn("svg", { viewBox: `0 0 1000 ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    svg.append(
      drawn("path", { class: "ghost", d: paths.ghost }),
      drawn("path", { class: "bars", d: paths.above }),
      drawn("path", { class: "below", d: paths.below }),
      drawn("line", { class: "axis", x1: 0, x2: 1000, y1: base, y2: base }),
    );
    if (line.length) svg.append(drawn("polyline", { class: "second", points: line.join(" ") }));
    this.mark = drawn("rect", { class: "here", y: 0, height: HEIGHT, width: 2.5 });
    svg.append(this.mark);
    this.box.replaceChildren(svg);
    this.box.setAttribute("aria-valuemax", this.length);
  }

  select(at, words) {
    this.mark?.setAttribute("x", ((at + 0.5) * 1000) / this.length - 1.25);
    this.box.setAttribute("aria-valuenow", at + 1);
    this.box.setAttribute("aria-valuetext", words);
  }
}
