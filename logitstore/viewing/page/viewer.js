// The page of a store: what is shown of it follows from a document, a token, a measure and a draw,
// which stand in the address.

import { byId, element, spelled, visible } from "./elements.js";
import { bytes, count, several } from "./numbers.js";
import { sourceOf } from "./sources.js";
import { MEASURES, measuresOf } from "./measures.js";
import { Text } from "./text.js";
import { showDetails } from "./details.js";
import { Curve } from "./curve.js";
import { Finder } from "./finder.js";
import { showStore } from "./plots.js";

const data = JSON.parse(byId("data").textContent);

class Viewer {
  constructor() {
    this.source = sourceOf(data);
    this.served = data.pack === undefined;
    this.measure = MEASURES[0];
    this.number = -1;
    this.turn = 0;
    this.text = new Text(byId("text"), { chosen: (at) => this.chosen(at), pointed: (at) => this.pointed(at) });
    this.curve = new Curve(byId("curve"), (at) => this.text.select(at, { show: true }));
    this.finder = new Finder(this);
  }

  async begin() {
    this.info = await this.source.info();
    byId("home").hidden = !data.catalogue;
    byId("name").textContent = visible(this.info.name);
    this.listen();
    this.head();
    await this.fromAddress();
  }

  head() {
    const { info } = this;
    const parts = [`${info.teacher.name}, ${info.sparsifier}, k = ${info.k}`, several(info.documents, "document"), bytes(info.bytes)];
    if (info.second) parts.push(`beside ${info.second.kind} ${info.second.name}`);
    if (!this.served) parts.push(`${several(this.source.numbers.length, "document")} of them on this page`);
    byId("summary").textContent = visible(parts.join(" · "));
    byId("notice").hidden = !info.note;
    byId("notice").textContent = visible(info.note ?? "");
    byId("total").textContent = `of ${count(info.documents)}`;
    this.measures = measuresOf(info);
    byId("extremes").hidden = !info.whole;
    byId("measures").replaceChildren(byId("measures").firstElementChild, ...this.measures.map((one) => {
      const input = element("input", { type: "radio", name: "measure", value: one.name });
      input.addEventListener("change", () => this.shadeBy(one));
      return element("label", {}, input, element("span", {}, one.label));
    }));
    const draws = this.served ? info.draws : [];
    byId("draws").hidden = draws.length < 2;
    byId("draw").replaceChildren(...draws.map((one, at) => element("option", { value: at, selected: at === info.draw }, one)));
  }

  listen() {
    byId("jump").addEventListener("submit", (event) => {
      event.preventDefault();
      const wanted = Number(byId("number").value.replaceAll(/[,\s.]/g, ""));
      if (Number.isInteger(wanted)) this.go(wanted - 1, { focus: true });
    });
    byId("number").addEventListener("focus", (event) => event.target.select());
    byId("previous").addEventListener("click", () => this.go(this.source.step(this.number, -1)));
    byId("next").addEventListener("click", () => this.go(this.source.step(this.number, 1)));
    byId("open-finder").addEventListener("click", () => this.finder.open());
    byId("open-help").addEventListener("click", () => byId("help").showModal());
    byId("draw").addEventListener("change", (event) => this.carefully(() => this.drawBy(Number(event.target.value))));
    const tabs = [byId("tab-read"), byId("tab-store")];
    tabs.forEach((tab, at) => {
      tab.addEventListener("click", () => this.tab(tab));
      tab.addEventListener("keydown", (event) => {
        if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
        this.tab(tabs[1 - at]);
        tabs[1 - at].focus();
      });
    });
    addEventListener("hashchange", () => this.carefully(() => this.fromAddress()));
    addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const { target } = event;
    if (event.altKey || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
    if (target.matches("input:not([type=radio]), select") || byId("read").hidden) return;
    // Before anything has the focus too; up and down then move the page, as everywhere.
    if (target === document.body && ["ArrowLeft", "ArrowRight"].includes(event.key)) return this.text.key(event);
    const measure = this.measures[Number(event.key) - 1];
    const keys = {
      "/": () => this.finder.open(),
      "[": () => this.go(this.source.step(this.number, -1), { focus: true }),
      "]": () => this.go(this.source.step(this.number, 1), { focus: true }),
      ",": () => this.peak(-1),
      ".": () => this.peak(1),
      "?": () => byId("help").showModal(),
    };
    const use = measure ? () => this.shadeBy(measure) : keys[event.key];
    if (use === undefined) return;
    event.preventDefault();
    use();
  }

  tab(chosen) {
    for (const tab of [byId("tab-read"), byId("tab-store")]) {
      const here = tab === chosen;
      tab.setAttribute("aria-selected", here);
      tab.tabIndex = here ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = !here;
    }
    if (chosen.id === "tab-store") this.carefully(() => this.showWhole());
  }

  async showWhole() {
    const again = () => this.carefully(() => this.showWhole());
    for (let look = 0; look < 4; look += 1) {
      const seen = await this.survey();
      showStore(byId("store"), this.info, seen, { further: this.served ? again : null });
      if (!this.served || seen.seen.blocks === seen.of.blocks) break;
    }
  }

  survey() {
    return this.source.survey(1);
  }

  async carefully(use) {
    try {
      await use();
    } catch (error) {
      this.tell(error.message);
    }
  }

  tell(message) {
    byId("notice").hidden = false;
    byId("notice").textContent = visible(message);
  }

  // What stands behind the # of the address, or the beginning of the store.
  async fromAddress() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    const measure = this.measures.find((one) => one.name === wanted.get("shade")) ?? this.measure;
    const draw = Number(wanted.get("draw") ?? 0);
    if (this.served && draw !== this.source.draw) await this.drawBy(draw, { show: false });
    const first = this.served ? 0 : this.source.numbers[0];
    const number = wanted.has("document") ? Number(wanted.get("document")) - 1 : first;
    const token = wanted.has("token") ? Number(wanted.get("token")) - 1 : undefined;
    this.measure = this.measures.includes(measure) ? measure : this.measures[0];
    if (number !== this.number) await this.go(number, { token });
    else if (token !== undefined) this.text.select(token, { show: true });
    this.shadeBy(this.measure);
  }

  address() {
    const parts = { document: this.number + 1, token: this.text.selected + 1, shade: this.measure.name };
    if (this.source.draw) parts.draw = this.source.draw;
    history.replaceState(null, "", `#${new URLSearchParams(parts)}`);
  }

  async drawBy(draw, { show = true } = {}) {
    this.source.setDraw(draw);
    this.info = await this.source.info();
    this.head();
    const number = this.number;
    this.number = -1;
    if (show) await this.go(number, { token: this.text.selected });
  }

  async go(number, { token, focus = false } = {}) {
    const turn = ++this.turn;
    if (!(number >= 0 && number < this.info.documents) || !this.source.has(number)) {
      const what = this.served ? `1 to ${count(this.info.documents)}` : this.source.numbers.map((one) => one + 1).join(", ");
      if (number !== -1 && number !== this.info.documents) this.tell(`There are documents ${what} here.`);
      byId("number").value = this.number + 1;
      return;
    }
    this.tab(byId("tab-read"));
    await this.carefully(async () => {
      const shown = await this.source.document(number);
      if (turn === this.turn) this.show(shown, { token, focus });
    });
  }

  show(shown, { token, focus }) {
    [this.number, this.document] = [shown.number, shown];
    byId("number").value = count(shown.number + 1);
    byId("previous").disabled = this.source.step(shown.number, -1) < 0;
    const next = this.source.step(shown.number, 1);
    byId("next").disabled = next < 0 || next >= this.info.documents;
    const facts = [`id ${shown.id.slice(0, 12)}`, `record ${count(shown.record)}${shown.piece ? `, piece ${shown.piece}` : ""}`,
      several(shown.first.length, "token"), several(shown.first.targets, "target")];
    byId("about").replaceChildren(facts.join(" · "));
    if (shown.note) byId("about").append(element("br"), element("strong", {}, visible(shown.note)));
    const notes = [this.info.note].filter(Boolean);
    byId("notice").hidden = !notes.length;
    byId("notice").textContent = visible(notes.join(" "));
    this.text.show(shown);
    this.shadeBy(this.measure);
    const first = shown.first.rows.findIndex((row) => row >= 0);
    this.text.select(token ?? Math.max(0, first), { focus, show: token !== undefined });
    byId("status").textContent = `Document ${count(shown.number + 1)}, ${facts.slice(2).join(", ")}`;
  }

  shadeBy(measure) {
    this.measure = measure;
    const input = byId("measures").querySelector(`[value="${measure.name}"]`);
    if (input) input.checked = true;
    this.legend();
    if (!this.document) return;
    this.text.shade(this.document, measure);
    this.curve.show(this.document, measure);
    if (this.text.selected >= 0) this.chosen(this.text.selected);
  }

  legend() {
    const { measure } = this;
    const [low, high] = measure.ends;
    byId("legend").replaceChildren(
      element("span", {}, low),
      element("span", { className: measure.signed ? "scale both" : "scale", role: "img", ariaLabel: `shade from ${low} to ${high}` }),
      element("span", {}, high),
      element("span", { className: "sample shaded" }, "counted"),
      element("span", { className: "sample token uncounted" }, "not counted"));
  }

  chosen(at) {
    const value = this.measure.value(this.document, at);
    const words = Number.isFinite(value) ? this.measure.words(value) : "not counted";
    this.curve.select(at, `${at + 1}, ${spelled(this.document.first.text(at))}, ${words}`);
    showDetails(byId("details"), this, at);
    byId("details").scrollTop = 0;
    this.address();
  }

  pointed(at) {
    const shown = at < 0 ? this.text.selected : at;
    if (this.document && shown >= 0) showDetails(byId("details"), this, shown);
  }

  // The next token whose value is among the highest tenth of the document.
  peak(way) {
    const values = Array.from({ length: this.document.first.length }, (_, at) => {
      const value = this.measure.value(this.document, at);
      return Number.isFinite(value) ? Math.abs(value) : -1;
    });
    const known = values.filter((one) => one >= 0).sort((a, b) => b - a);
    const least = known[Math.floor(known.length / 10)] ?? 0;
    for (let at = this.text.selected + way; at >= 0 && at < values.length; at += way) {
      if (values[at] > 0 && values[at] >= least) {
        this.text.select(at, { focus: true });
        return;
      }
    }
  }
}

const viewer = new Viewer();
viewer.begin().catch((error) => viewer.tell(error.message));
