// Documents found: by text, by id, and those of which the teacher was least sure.

import { byId, element, visible } from "./elements.js";
import { count, nats, several } from "./numbers.js";

const LOOKS = 5; // pieces of a search or a survey that are asked for before the user is

export class Finder {
  constructor(page) {
    this.page = page;
    this.dialog = byId("finder");
    this.turn = 0; // of what was asked last: answers to what was asked before are dropped
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = byId("query").value;
      if (text.trim()) this.run((turn) => this.search(turn, text));
    });
    for (const button of byId("extremes").querySelectorAll("button")) {
      button.addEventListener("click", () => this.run((turn) => this.extremes(turn, button.dataset.list)));
    }
    byId("more").addEventListener("click", () => this.further?.());
    this.dialog.addEventListener("close", () => { this.turn += 1; });
  }

  open() {
    this.dialog.showModal();
    byId("query").focus();
    byId("query").select();
  }

  async run(use) {
    this.turn += 1;
    byId("results").replaceChildren();
    byId("more").hidden = true;
    await this.carefully(use, this.turn);
  }

  async carefully(use, turn) {
    try {
      await use(turn);
    } catch (error) {
      if (turn === this.turn) byId("found").textContent = visible(error.message);
    }
  }

  add(number, token, ...content) {
    const button = element("button", { type: "button" },
      element("span", { className: "place" }, count(number + 1)), ...content);
    button.addEventListener("click", () => {
      this.dialog.close();
      this.page.go(number, { token, focus: true });
    });
    byId("results").append(element("li", {}, button));
  }

  async search(turn, text) {
    if (/^[0-9a-f]{12,32}$/i.test(text.trim())) {
      const { number, blocks, of } = await this.page.source.find(text.trim());
      if (turn !== this.turn) return;
      if (number !== null) {
        this.dialog.close();
        this.page.go(number, { focus: true });
        return;
      }
      byId("found").textContent = `No document has this id${blocks < of ? `, in ${count(blocks)} of ${count(of)} blocks` : ""}.`;
    }
    await this.pieces(turn, text, 0, 0);
  }

  async pieces(turn, text, start, found) {
    let [next, hits] = [start, found];
    for (let look = 0; look < LOOKS; look += 1) {
      const answer = await this.page.source.search(text, next);
      if (turn !== this.turn) return;
      for (const hit of answer.hits) {
        this.add(hit.number, hit.token, element("bdi", { className: "excerpt" },
          visible(hit.before), element("mark", {}, visible(hit.found)), visible(hit.after)));
      }
      hits += answer.hits.length;
      next = answer.next;
      const seen = next === null ? `all ${several(answer.documents, "document")}` : `${count(next)} of ${several(answer.documents, "document")}`;
      byId("found").textContent = `${several(hits, "document")} with it; looked through ${seen}.`;
      if (next === null || answer.hits.length >= 20) break;
    }
    byId("more").hidden = next === null;
    this.further = () => this.carefully((now) => this.pieces(now, text, next, hits), turn);
  }

  async extremes(turn, list) {
    for (let look = 0; look < LOOKS; look += 1) {
      const answer = await this.page.survey();
      if (turn !== this.turn) return;
      const { seen, of } = answer;
      const all = seen.documents === of.documents;
      byId("found").textContent = `By the mean over a document, of those with ${answer.least_targets} targets or more; ` +
        `looked at ${all ? "all" : `${count(seen.documents)} of`} ${several(of.documents, "document")}.`;
      byId("results").replaceChildren();
      for (const one of answer.lists[list]) {
        if (this.page.source.has(one.number)) {
          this.add(one.number, undefined, `${nats(one.mean)}, ${several(one.targets, "target")}`);
        }
      }
      if (!byId("results").children.length) byId("found").textContent += " This page holds none of the first 50.";
      byId("more").hidden = all || !this.page.served;
      if (all || !this.page.served) break;
    }
    this.further = () => this.carefully((now) => this.extremes(now, list), turn);
  }
}
