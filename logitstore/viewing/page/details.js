// One token and its distribution: what it was, what the teacher expected, and how sure it was.

import { drawn, element, spelled, visible } from "./elements.js";
import { count, nats, probability, several } from "./numbers.js";

const SHAPE_HEIGHT = 40;
const LEAST = 1e-5; // of a probability that is drawn: five powers of ten are shown

function facts(rows, heads) {
  const list = element("dl", { className: heads ? "facts three" : "facts" });
  if (heads) list.append(element("dt", {}, ""), ...heads.map((one) => element("dd", { className: "head", title: one }, one)));
  for (const [label, ...values] of rows) {
    list.append(element("dt", {}, label), ...values.map((one) => element("dd", {}, one)));
  }
  return list;
}

function rankOf(side, at, entries, left) {
  const found = entries.findIndex((one) => one.id === side.id(at));
  return found < 0 ? "no entry" : `${found + 1} of ${entries.length + left}`;
}

// The height of a probability, on a scale of five powers of ten.
function heightOf(p) {
  return SHAPE_HEIGHT * Math.max(0.02, 1 + Math.log10(Math.max(p, LEAST)) / 5);
}

// The whole distribution in one look: its entries by falling probability, then all the rest.
function shapeOf(target, entries, others, actual) {
  const width = 100 / (entries.length + 4);
  const chart = drawn("svg", {
    viewBox: `0 0 100 ${SHAPE_HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${entries.length} entries from ${probability(entries[0]?.p)} down to ${probability(entries.at(-1)?.p)}, ` +
      `outside the exact ones ${probability(target.tail)}; heights by powers of ten`,
  });
  const pattern = drawn("pattern", { id: "hatch", width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45) scale(0.4 1)" });
  pattern.append(drawn("rect", { width: 1.6, height: 4, fill: "var(--mark)" }));
  chart.append(drawn("defs", {}, pattern));
  entries.forEach((one, at) => {
    const height = heightOf(one.p);
    chart.append(drawn("rect", {
      class: one.id === actual ? "actual" : one.drawn ? "drawn" : "exact",
      x: at * width, width: width * 0.86, y: SHAPE_HEIGHT - height, height,
    }));
  });
  if (target.tail > 0) {
    const height = heightOf(target.tail);
    chart.append(drawn("rect", { class: "rest", x: 100 - 2.6 * width, width: 2.6 * width, y: SHAPE_HEIGHT - height, height }));
  }
  if (others) {
    const known = new Map(others.map((one) => [one.id, one.p]));
    const points = entries.flatMap((one, at) =>
      known.has(one.id) ? [`${at * width + width / 2},${SHAPE_HEIGHT - heightOf(known.get(one.id))}`] : []);
    chart.append(drawn("polyline", { class: "second", points: points.join(" ") }));
  }
  return element("div", { className: "shape" }, chart);
}

function barOf(kind, p, most) {
  const bar = element("span", { className: kind });
  bar.style.setProperty("width", `${(100 * (p || 0)) / most}%`);
  return bar;
}

// All entries of both sides, the most probable first.
function merged(entries, others) {
  const found = new Map(entries.map((one) => [one.id, { ...one, q: undefined }]));
  for (const one of others ?? []) {
    const known = found.get(one.id);
    if (known) [known.q, known.otherDrawn] = [one.p, one.drawn];
    else found.set(one.id, { id: one.id, text: one.text, p: undefined, q: one.p, drawn: false, otherDrawn: one.drawn });
  }
  return [...found.values()].sort((a, b) => Math.max(b.p ?? 0, b.q ?? 0) - Math.max(a.p ?? 0, a.q ?? 0));
}

function candidates(target, other, actual, vocabulary) {
  const entries = target.entries();
  const list = merged(entries, other?.entries());
  const most = Math.max(target.tail || 0, other?.tail || 0, ...list.map((one) => Math.max(one.p ?? 0, one.q ?? 0)), 1e-9);
  const shown = element("ol", { className: other ? "candidates two" : "candidates", "aria-label": "Entries, the most probable first" });
  const line = (kind, text, p, q, told) => {
    const bars = [barOf("first", p, most)];
    if (other) bars.push(barOf("second", q, most));
    const value = other ? `${probability(p)} · ${probability(q)}` : probability(p);
    shown.append(element("li", { className: kind, title: told },
      element("bdi", { className: "piece" }, text),
      element("span", { className: "bar", ariaHidden: "true" }, ...bars),
      element("span", { className: "value" }, value, element("span", { className: "unseen" }, told ? ` (${told})` : ""))));
  };
  if (!list.some((one) => one.id === actual.id)) {
    line("follows", spelled(actual.text), Math.exp(-target.loss), other ? Math.exp(-other.loss) : undefined, "follows here; no entry");
  }
  for (const one of list) {
    const kinds = [one.drawn ? "drawn" : "exact"];
    const told = [];
    if (one.id === actual.id) [kinds[1], told[0]] = ["follows", "follows here"];
    if (one.drawn) told.push("drawn: this is its weight");
    if (one.otherDrawn) [kinds[2], told[told.length]] = ["other-drawn", "drawn in the second: its weight there"];
    line(kinds.filter(Boolean).join(" "), spelled(one.text), one.p, one.q, told.join("; "));
  }
  if (target.left) {
    shown.append(element("li", { className: "left" }, `${several(target.left, "more entry", "more entries")} below ${probability(target.least)}, not on this page`));
  }
  if (Number.isFinite(target.tail)) {
    const exact = entries.filter((one) => !one.drawn).length + target.left;
    const left = Math.max(0, vocabulary - exact);
    line("rest", `${count(left)} others`, target.tail, other?.tail, "all tokens that are no exact entry");
  }
  return shown;
}

function keyOf(entries, others, { second, entries: entriesOf }) {
  const parts = [["exact", entriesOf === "shares" ? "shares of the entries" : "exact"]];
  if ([...entries, ...(others ?? [])].some((one) => one.drawn)) parts.push(["drawn", "drawn, by weight"]);
  if (others) parts.push(["second", visible(second.name)]);
  return element("p", { className: "key" }, ...parts.map(([kind, text]) =>
    element("span", {}, element("i", { className: kind }), text)), element("span", {}, "underlined: follows here"));
}

export function showDetails(box, page, at) {
  const { document: shown, info } = page;
  const side = shown.first;
  const target = side.at(at);
  const name = element("p", { className: "token-name" }, element("bdi", {}, spelled(side.ownText(at))));
  const place = element("p", { className: "muted small" }, `token ${count(at + 1)} of ${count(side.length)}, id ${side.id(at)}`);
  if (target === null) {
    const why = at === 0 ? "The first token is never a target: nothing stands before it."
      : "This token does not count, so no distribution is stored for it.";
    box.replaceChildren(name, place, element("p", { className: "muted" }, why));
    return;
  }
  const other = shown.second?.at(at) ?? null;
  const entries = target.entries();
  const others = other?.entries();
  const row = (label, use) => (other ? [label, use(target, side, entries), use(other, shown.second, others)] : [label, use(target, side, entries)]);
  const rows = [
    row("probability", (one) => probability(Math.exp(-one.loss))),
    row("place", (one, own, known) => rankOf(own, at, known, one.left)),
    row("loss", (one) => nats(one.loss)),
    row("entropy", (one) => nats(one.entropy)),
    row(other ? "not exact" : "outside the exact entries", (one) => probability(one.tail)),
  ];
  const heads = other ? ["first", info.second.kind === "student" ? "student" : "second"] : null;
  const parts = [name, place, facts(rows, heads)];
  if (other) parts.push(element("p", { className: "small muted" }, `KL is ${nats(shown.kl(at), 3)} or more`));
  parts.push(shapeOf(target, entries, others, side.id(at)));
  parts.push(candidates(target, other, { id: side.id(at), text: side.ownText(at) }, info.vocab_size));
  parts.push(keyOf(entries, others, info));
  box.replaceChildren(...parts);
}
