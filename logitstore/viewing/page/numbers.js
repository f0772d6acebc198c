// Numbers for people: few digits, units, thousands apart.

export function count(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en");
}

export function probability(value) {
  if (!(value >= 0)) return "–";
  const percent = value * 100;
  if (percent >= 9.95) return `${percent.toFixed(percent > 99.9 ? 2 : 0)} %`;
  if (percent >= 0.995) return `${percent.toFixed(1)} %`;
  if (percent >= 0.00995) return `${percent.toFixed(2)} %`;
  if (percent === 0) return "0 %";
  const power = Number(percent.toExponential(0).split("e")[1]); // of the rounded number
  const digits = [...String(power)].map((one) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(one)]);
  return `${(percent / 10 ** power).toFixed(0)}·10${digits.join("")} %`;
}

export function nats(value, digits = 2) {
  return Number.isFinite(value) ? `${value.toFixed(digits)} nats` : "–";
}

export function bytes(value) {
  const units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  let shown = value;
  while (shown >= 1000 && unit < units.length - 1) [shown, unit] = [shown / 1000, unit + 1];
  return `${unit && shown < 100 ? shown.toFixed(1) : Math.round(shown)} ${units[unit]}`;
}

export function several(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}
