// Packs of documents, as `packing.py` makes them, unpacked: typed arrays, and a view of each document.

const THOUSAND = 1000;
const NONE = 0xffff; // in thousandths: not known

const known = (value) => (value === NONE ? NaN : value / THOUSAND);

async function inflated(text) {
  const data = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function column(packed) {
  if (packed === null) return null;
  const planes = await inflated(packed.data);
  const values = new Uint32Array(packed.length);
  for (let plane = 0; plane < packed.bytes; plane += 1) {
    const start = plane * packed.length;
    for (let at = 0; at < packed.length; at += 1) values[at] += planes[start + at] * 256 ** plane;
  }
  return values;
}

const NAMES = ["ids", "tokens", "counted", "entropy", "loss", "tail", "count", "top", "delta", "level", "drawn", "left"];

async function unpackedPack(pack) {
  const columns = await Promise.all(NAMES.map((name) => column(pack[name])));
  const found = Object.fromEntries(NAMES.map((name, at) => [name, columns[at]]));
  found.texts = JSON.parse(new TextDecoder().decode(await inflated(pack.texts)));
  found.special = new Set(pack.special);
  found.levels = pack.levels;
  found.least = pack.least;
  found.starts = new Uint32Array(found.count.length); // of the entries of each target
  for (let row = 1; row < found.count.length; row += 1) {
    found.starts[row] = found.starts[row - 1] + found.count[row - 1];
  }
  return { ...found, lengths: pack.lengths, inPlace: pack.in_place };
}

// One side of a document: the tokens, and of those that count the target.
class Side {
  constructor(pack, number) {
    const before = pack.lengths.slice(0, number);
    this.pack = pack;
    this.token = before.reduce((sum, [tokens]) => sum + tokens, 0);
    this.target = before.reduce((sum, [, targets]) => sum + targets, 0);
    [this.length, this.targets] = pack.lengths[number];
    this.inPlace = pack.inPlace[number];
    this.rows = new Int32Array(this.length).fill(-1);
    let row = 0;
    for (let at = 0; at < this.length; at += 1) {
      if (pack.counted[this.token + at]) this.rows[at] = row++;
    }
  }

  rank(at) { return this.pack.tokens[this.token + at]; }
  id(at) { return this.pack.ids[this.rank(at)]; }
  text(at) { return this.inPlace[at] ?? this.pack.texts[this.rank(at)]; }
  ownText(at) { return this.pack.texts[this.rank(at)]; }
  special(at) { return this.pack.special.has(this.rank(at)); }

  // The target of the token at a place; null where it does not count.
  at(place) {
    const row = this.rows[place];
    if (row === undefined || row < 0) return null;
    const { pack } = this;
    const one = this.target + row;
    return {
      row,
      entropy: known(pack.entropy[one]),
      loss: known(pack.loss[one]),
      top: Math.exp(-pack.top[one] / THOUSAND),
      tail: Math.exp(-known(pack.tail[one])),
      left: pack.left === null ? 0 : pack.left[one],
      least: pack.least,
      entries: () => this.entries(one),
    };
  }

  // Its entries, the most probable first.
  entries(one) {
    const { pack } = this;
    const found = [];
    let rank = 0;
    for (let at = pack.starts[one]; at < pack.starts[one] + pack.count[one]; at += 1) {
      rank += pack.delta[at];
      found.push({
        id: pack.ids[rank],
        text: pack.texts[rank],
        p: Math.exp(-(pack.top[one] + pack.levels[pack.level[at]]) / THOUSAND),
        drawn: pack.drawn !== null && pack.drawn[at] === 1,
      });
    }
    return found.sort((a, b) => b.p - a.p);
  }
}

export async function unpacked(answer) {
  const first = await unpackedPack(answer.first);
  const second = answer.second === null ? null : await unpackedPack(answer.second);
  const kl = await column(answer.kl);
  return answer.documents.map((named, number) => {
    const side = new Side(first, number);
    const other = named.second === undefined ? null : new Side(second, named.second);
    return {
      ...named,
      first: side,
      second: other,
      kl: (place) => {
        const row = side.rows[place];
        return kl === null || other === null || row < 0 ? NaN : known(kl[side.target + row]);
      },
    };
  });
}
