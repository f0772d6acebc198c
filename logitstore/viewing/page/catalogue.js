// The catalogue: every store of the server, searched and filtered here.

import { byId, element, visible } from "./elements.js";
import { bytes, count, probability, several } from "./numbers.js";

const FILTERS = ["teacher", "tokenizer", "sparsifier"];
const FIELDS = ["name", "teacher", "tokenizer", "corpus", "sparsifier", "fingerprint", "format"];

const pathOf = (name) => name.split("/").map(encodeURIComponent).join("/");
const shortOf = (field, value) => (field === "tokenizer" ? value.slice(0, 12) : visible(value));

function fact(name, value) {
  return element("div", {}, element("dt", {}, name), element("dd", {}, element("bdi", {}, visible(String(value)))));
}

function fidelityOf(store) {
  const audit = store.last_audit;
  if (!audit) return "–";
  const kl = Number.isFinite(audit.kl) ? `KL ${audit.kl.toPrecision(2)} nats` : "no KL";
  return audit.ok ? kl : `${kl}, faults`;
}

function entry(store) {
  const name = visible(store.name);
  if (store.error !== undefined) {
    return element("li", {}, element("h2", {}, name), element("p", { className: "error" }, visible(store.error)));
  }
  const title = store.sealed
    ? element("a", { href: `/view/${pathOf(store.name)}` }, name)
    : element("span", {}, `${name} (not finished)`);
  const made = element("li", {},
    element("div", {}, element("h2", {}, title),
      element("p", { className: "source" }, element("bdi", {}, visible(store.teacher)), " on ", element("bdi", {}, visible(store.corpus)))),
    element("dl", {},
      fact("targets", count(store.targets)),
      fact("documents", count(store.documents)),
      fact("size", `${bytes(store.bytes)}, ${store.bytes_per_target?.toFixed(0) ?? "–"} a target`),
      fact("sparsifier", `${store.sparsifier}, k = ${store.k}`),
      fact("kept exactly", store.retained_mass ? probability(store.retained_mass) : "–"),
      fact("last audit", fidelityOf(store)),
      fact("tokenizer", store.tokenizer.slice(0, 12)),
      fact("made", (store.created ?? "–").slice(0, 10))));
  if (store.sealed) {
    const command = `trainer fit --logits ${location.origin}/stores/${pathOf(store.name)} --student MODEL --out RUN`;
    const copy = element("button", { type: "button", ariaLabel: `Copy the command for ${name}` }, "Copy");
    copy.addEventListener("click", async () => {
      await navigator.clipboard?.writeText(command);
      copy.textContent = "Copied";
    });
    made.append(element("p", { className: "use" }, element("code", { tabIndex: 0 }, command), copy));
  }
  return made;
}

class Catalogue {
  async begin() {
    const answer = await fetch("/api/stores", { headers: { accept: "application/json" } });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error);
    this.stores = content.stores;
    for (const field of FILTERS) {
      const values = [...new Set(this.stores.map((one) => one[field]).filter(Boolean))].sort();
      byId(field).replaceChildren(element("option", { value: "" }, "all"),
        ...values.map((value) => element("option", { value }, shortOf(field, value))));
    }
    byId("filters").addEventListener("input", () => this.show());
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    this.show();
  }

  show() {
    const words = byId("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.stores.filter((store) => {
      const text = FIELDS.map((field) => store[field] ?? "").join(" ").toLowerCase();
      return words.every((word) => text.includes(word)) &&
        FILTERS.every((field) => !byId(field).value || store[field] === byId(field).value);
    });
    const order = byId("order").value;
    const ways = {
      name: (a, b) => a.name.localeCompare(b.name),
      created: (a, b) => (b.created ?? "").localeCompare(a.created ?? ""),
    };
    found.sort(ways[order] ?? ((a, b) => (b[order] ?? 0) - (a[order] ?? 0)));
    byId("stores").replaceChildren(...found.map(entry));
    const all = several(this.stores.length, "store");
    byId("summary").textContent = found.length === this.stores.length ? all : `${count(found.length)} of ${all}`;
  }
}

new Catalogue().begin().catch((error) => {
  byId("notice").hidden = false;
  byId("notice").textContent = visible(error.message);
});
