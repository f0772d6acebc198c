// What tokens can be shaded by: a value of each token, and how much shade that is.

import { nats, probability } from "./numbers.js";

const shadeOf = (most) => (value) => Math.min(1, Math.max(0, value / most));

export const MEASURES = [
  {
    name: "entropy", label: "Entropy", most: 6, ends: ["certain", "6 nats or more"],
    value: (document, at) => document.first.at(at)?.entropy, second: (document, at) => document.second?.at(at)?.entropy,
    shade: shadeOf(6), words: nats,
  },
  {
    name: "loss", label: "Loss", most: 8, ends: ["expected", "8 nats or more"],
    value: (document, at) => document.first.at(at)?.loss, second: (document, at) => document.second?.at(at)?.loss,
    shade: shadeOf(8), words: nats,
  },
  {
    name: "tail", label: "Tail mass", most: 0.5, ends: ["0 %", "50 % or more"],
    value: (document, at) => document.first.at(at)?.tail, second: (document, at) => document.second?.at(at)?.tail,
    shade: shadeOf(0.5), words: probability,
  },
  {
    name: "top", label: "Top entry", most: 1, ends: ["all of the mass", "none of it"],
    value: (document, at) => document.first.at(at)?.top, second: (document, at) => document.second?.at(at)?.top,
    shade: (value) => 1 - value, words: probability,
  },
  {
    name: "kl", label: "KL", most: 2, compares: true, ends: ["alike", "at least 2 nats"],
    value: (document, at) => document.kl(at), shade: (value) => Math.sqrt(shadeOf(2)(value)), words: (value) => nats(value, 3),
  },
  {
    name: "gain", label: "Difference", most: 4, compares: true, signed: true,
    ends: ["second gave more", "first gave e⁴ more"],
    value: (document, at) => {
      const [first, second] = [document.first.at(at), document.second?.at(at)];
      return first && second ? second.loss - first.loss : undefined;
    },
    shade: (value) => shadeOf(4)(Math.abs(value)), words: (value) => `${value > 0 ? "+" : ""}${nats(value)}`,
  },
];

// Those that a store can be shaded by: what nobody has told the store is not among them.
export function measuresOf(info) {
  const both = info.second?.whole && info.whole;
  const there = { entropy: info.whole, loss: info.whole, tail: info.exact, top: !info.whole, kl: both, gain: both };
  return MEASURES.filter((one) => there[one.name]);
}
