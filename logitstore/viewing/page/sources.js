// Where a page has its documents from: the server that gave it, or itself.

import { unpacked } from "./packs.js";

const KEPT = 32; // documents

class Served {
  constructor(store) {
    this.store = store;
    this.draw = 0;
    this.kept = new Map();
  }

  async ask(what, parameters = {}) {
    const query = new URLSearchParams({ store: this.store, draw: this.draw, ...parameters });
    let answer;
    try {
      answer = await fetch(`/api/${what}?${query}`, { headers: { accept: "application/json" } });
    } catch {
      throw new Error("The server does not answer.");
    }
    const content = await answer.json().catch(() => ({ error: `The server answers ${answer.status}.` }));
    if (!answer.ok) throw new Error(content.error);
    return content;
  }

  setDraw(draw) {
    this.draw = draw;
    this.kept.clear();
  }

  info() { return this.ask("info"); }
  find(id) { return this.ask("find", { id }); }
  search(text, start) { return this.ask("search", { text, start }); }
  survey(seconds) { return this.ask("survey", { seconds }); }
  has() { return true; }
  step(number, by) { return number + by; }

  document(number) {
    if (!this.kept.has(number)) {
      const asked = this.ask("document", { number }).then(unpacked).then(([one]) => one);
      asked.catch(() => this.kept.delete(number));
      this.kept.set(number, asked);
      if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    }
    return this.kept.get(number);
  }
}

class Alone {
  constructor(content) {
    this.content = content;
    this.numbers = content.pack.documents.map((one) => one.number);
    this.all = unpacked(content.pack);
  }

  setDraw() {}
  async info() { return this.content.info; }
  async survey() { return this.content.survey; }
  has(number) { return this.numbers.includes(number); }
  step(number, by) { return this.numbers[this.numbers.indexOf(number) + by] ?? -1; }

  async document(number) {
    const found = (await this.all).find((one) => one.number === number);
    if (found === undefined) throw new Error(`This page does not hold document ${number + 1}.`);
    return found;
  }

  async find(id) {
    const found = (await this.all).find((one) => one.id.startsWith(id.toLowerCase()));
    return { number: found?.number ?? null, blocks: 0, of: 0 };
  }

  async search(text) {
    const wanted = text.toLowerCase();
    const hits = [];
    for (const one of await this.all) {
      const pieces = Array.from({ length: one.first.length }, (_, at) => one.first.text(at));
      const whole = pieces.join("");
      const place = whole.toLowerCase().indexOf(wanted);
      if (place < 0) continue;
      let token = 0;
      for (let stop = pieces[0].length; stop <= place; stop += pieces[token].length) token += 1;
      hits.push({
        number: one.number, token, before: whole.slice(Math.max(0, place - 48), place),
        found: whole.slice(place, place + wanted.length), after: whole.slice(place + wanted.length).slice(0, 48),
      });
    }
    return { hits, next: null, documents: this.numbers.length };
  }
}

export function sourceOf(data) {
  return data.pack === undefined ? new Served(data.store) : new Alone(data);
}
