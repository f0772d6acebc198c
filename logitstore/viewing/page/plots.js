// The store as a whole: what it was made from, and how its targets are spread.

import { drawn, element, visible } from "./elements.js";
import { bytes, count, nats, probability, several } from "./numbers.js";

const CHART_HEIGHT = 100;

function histogram(title, plot, { words, ends }) {
  const { counts, mean, most } = plot;
  const highest = Math.max(1, ...counts);
  const step = 1000 / counts.length;
  let path = "";
  counts.forEach((one, at) => {
    if (one === 0) return;
    const height = Math.max(1, (CHART_HEIGHT * one) / highest);
    path += `M${at * step} ${CHART_HEIGHT}v${-height}h${step * 0.88}v${height}z`;
  });
  const told = mean === null ? "no values" : `mean ${words(mean)}`;
  const svg = drawn("svg", { viewBox: `0 0 1000 ${CHART_HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: ${told}` },
    drawn("path", { class: "bars", d: path }),
    drawn("line", { class: "axis", x1: 0, x2: 1000, y1: CHART_HEIGHT, y2: CHART_HEIGHT }));
  return element("figure", { className: "plot" },
    element("figcaption", {}, title, element("span", {}, told)),
    element("div", { className: "chart" }, svg),
    element("p", { className: "ticks" }, ...[0, 0.5, 1].map((share) => element("span", {}, ends(share * most)))));
}

function columnBytes(info) {
  const columns = Object.entries(info.column_bytes_per_target).filter(([, value]) => value).sort((a, b) => b[1] - a[1]);
  const most = Math.max(...columns.map(([, value]) => value), 1e-9);
  const list = element("ol", { className: "columns" }, ...columns.map(([name, value]) => {
    const bar = element("span");
    bar.style.setProperty("width", `${(100 * value) / most}%`);
    return element("li", {}, element("span", { className: "piece", title: visible(name) }, visible(name)),
      element("span", { className: "bar" }, bar), element("span", { className: "value" }, value.toFixed(2)));
  }));
  return element("figure", { className: "plot" },
    element("figcaption", {}, "Bytes a target, by column", element("span", {}, info.bytes_per_target?.toFixed(1) ?? "–")), list);
}

function factsOf(info) {
  const rows = {
    teacher: info.teacher.architecture === null ? info.teacher.name
      : `${info.teacher.name}, ${info.teacher.architecture}, ${count(info.teacher.parameters)} parameters, ${info.teacher.dtype}`,
    corpus: info.corpus.name,
    documents: `${count(info.documents)}, ${several(info.tokens, "token")}, ${several(info.targets, "target")}`,
    sparsifier: `${info.sparsifier}, k = ${info.k}; serves T = ${info.serves_temperatures}`,
    size: `${bytes(info.bytes)}, ${info.format}`,
    "kept exactly": info.retained_mass ? `${probability(info.retained_mass)} of the mass, on average`
      : info.entries === "shares" ? "not known: entries are shares of what they hold together" : "nothing: every entry is drawn",
    "teacher’s loss": nats(info.teacher_loss, 3),
    "teacher’s entropy": nats(info.teacher_entropy, 3),
    vocabulary: `${count(info.vocab_size)} ids, tokenizer ${info.tokenizer.fingerprint.slice(0, 12)}`,
    fingerprint: info.fingerprint,
    made: info.created ?? "–",
  };
  if (info.edits?.length) rows.edited = info.edits.map((one) => one.command).join(", ");
  if (info.imported) rows.imported = info.imported.from ?? "from another system";
  const list = element("dl", { className: "table" });
  for (const [name, value] of Object.entries(rows)) {
    list.append(element("dt", {}, name), element("dd", {}, element("bdi", {}, visible(String(value)))));
  }
  return list;
}

export function showStore(box, info, survey, { further }) {
  const { seen, of, plots } = survey;
  const all = seen.blocks === of.blocks;
  const sample = element("p", { className: "muted" }, all
    ? `From all ${several(of.documents, "document")}.`
    : `From ${several(seen.documents, "document")} of ${count(of.documents)}, in ${count(seen.blocks)} of ${count(of.blocks)} blocks spread over the store. `);
  if (!all && further) {
    const button = element("button", { type: "button" }, "Look further");
    button.addEventListener("click", further);
    sample.append(button);
  }
  const short = (value) => (Number.isInteger(value) ? String(value) : value.toFixed(1));
  box.replaceChildren(
    element("h2", {}, "What it is"), factsOf(info),
    element("h2", { className: "apart" }, "How it is spread"), sample,
    element("div", { className: "plots" },
      histogram("Entropy of a target", plots.entropy, { words: nats, ends: (value) => `${short(value)}` }),
      histogram("Loss of the teacher", plots.loss, { words: nats, ends: (value) => `${short(value)}` }),
      histogram("Mass in exact entries", plots.retained, { words: probability, ends: (value) => `${Math.round(value * 100)} %` }),
      histogram("Tokens of a document", plots.length, { words: (value) => count(Math.round(value)), ends: (value) => count(Math.round(value)) }),
      columnBytes(info)),
  );
}
