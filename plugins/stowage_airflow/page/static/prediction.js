// What a dry run predicts, as a table.
"use strict";

const ROWS = [
  ["sequences", "Sequences"], ["packs", "Packs"], ["lower_bound", "Lower bound (packs)"], ["gap", "Gap (packs)"],
  ["packing_efficiency", "Packing efficiency", percent], ["packing_factor", "Packing factor: ideal speed-up"],
  ["output_bytes", "Packed dataset", size], ["seconds", "Reading and packing, about", duration], ["cost", "Cost"],
  ["sampled_shards", "Raw shards that this comes from"], ["shards", "Raw shards in all"],
  ["sampled_bytes", "Raw data that this comes from", size], ["bytes", "Raw data in all", size],
  ["bytes_read", "Read just now", size],
];

function predictionTable(predicted) {
  const table = document.createElement("table");
  const every = predicted.sampled_bytes === predicted.bytes;
  const limited = every && !predicted.exact ? "; the time limit ended a search" : "";
  const basis = `Prediction from ${every ? "every record" : "a sample of the raw shards"}${limited}`;
  table.createCaption().textContent = predicted.unchanged ? `${basis}: the packed dataset exists already, a refresh would write nothing` : basis;
  for (const [name, title, written = number] of ROWS) {
    if (predicted[name] === null || predicted[name] === undefined) continue;
    if (name === "gap" && !predicted.exact) continue; // no estimate of a difference between two estimates
    const row = table.insertRow();
    const head = row.appendChild(document.createElement("th"));
    head.scope = "row";
    head.textContent = title;
    const cell = row.insertCell();
    cell.className = "number";
    const figure = cell.appendChild(document.createElement("data"));
    figure.value = String(predicted[name]);
    figure.textContent = written(predicted[name]);
  }
  return table;
}

// Not rounded to a full 100.
function percent(share) {
  const text = (100 * share).toFixed(4);
  return `${text === "100.0000" && share < 1 ? "99.9999" : text} %`;
}

// 1.5 MB, in powers of 1000.
function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let [amount, unit] = [bytes, 0];
  for (; amount >= 999.95 && unit < units.length - 1; unit += 1) amount /= 1000;
  return `${number(amount, unit ? 1 : 0)} ${units[unit]}`;
}

// 0.35 s, 12 min 5 s, 2 h 3 min.
function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(2)} s`;
  const [minutes, rest] = [Math.floor(Math.round(seconds) / 60), Math.round(seconds) % 60];
  return minutes < 60 ? `${minutes} min ${rest} s` : `${number(Math.floor(minutes / 60))} h ${minutes % 60} min`;
}

function number(value, digits = 4) {
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}
