"use strict";

const form = document.getElementById("refresh");
const problems = document.getElementById("problems");
const progress = document.getElementById("progress");
const state = document.getElementById("state");
const buttons = [...form.querySelectorAll("button")].filter((button) => !button.disabled);
const fields = [...form.querySelectorAll("[data-kind]")];
const ENDED = ["success", "failed"];

class Refused extends Error {}

// What a field holds as JSON, or a Refused that says what it should hold; the rules are the DAG's.
function valueOf(field) {
  if (field.dataset.kind === "flag") return field.checked;
  const text = field.value.trim();
  if (text === "") {
    if (field.required) throw new Refused("Fill this in.");
    return null;
  }
  if (field.dataset.kind === "integer" || field.dataset.kind === "number") return numberOf(field, text);
  const { pattern } = field.dataset;
  if (pattern && !new RegExp(pattern, "u").test(text)) {
    throw new Refused(`Expected what is described above, got "${text}".`);
  }
  return text;
}

function numberOf(field, text) {
  const value = Number(text);
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = field.dataset;
  if (field.dataset.kind === "integer" && !/^[+-]?\d+$/.test(text)) throw new Refused("Expected a whole number.");
  if (!Number.isFinite(value)) throw new Refused("Expected a number.");
  if (field.dataset.kind === "integer" && !Number.isSafeInteger(value)) {
    throw new Refused("Too large for this form; trigger the DAG in Airflow itself.");
  }
  if (minimum !== undefined && value < Number(minimum)) throw new Refused(`Expected at least ${minimum}.`);
  if (maximum !== undefined && value > Number(maximum)) throw new Refused(`Expected at most ${maximum}.`);
  if (exclusiveMinimum !== undefined && value <= Number(exclusiveMinimum)) {
    throw new Refused(`Expected more than ${exclusiveMinimum}.`);
  }
  if (exclusiveMaximum !== undefined && value >= Number(exclusiveMaximum)) {
    throw new Refused(`Expected less than ${exclusiveMaximum}.`);
  }
  return value;
}

function mark(field, message) {
  document.getElementById(`error-${field.name}`).textContent = message;
  if (message) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

// All values, or null with every wrong field marked and the first one focused.
function readForm() {
  const conf = {};
  const wrong = [];
  for (const field of fields) {
    try {
      conf[field.name] = valueOf(field);
      mark(field, "");
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      mark(field, error.message);
      wrong.push(field);
    }
  }
  if (wrong.length === 0) return conf;
  say(wrong.length === 1 ? "One value cannot be used; it is marked." : `${wrong.length} values cannot be used; they are marked.`);
  wrong[0].focus();
  return null;
}

function say(message) {
  problems.textContent = message;
  problems.hidden = message === "";
}

async function call(method, path, body) {
  let answer;
  try {
    answer = await fetch(form.dataset.api + path, {
      method,
      credentials: "same-origin",
      headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
    });
  } catch {
    throw new Refused("Airflow does not answer. Check the connection, then try again.");
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  throw new Refused(reason(answer.status, content.detail));
}

function reason(status, detail) {
  if (status === 401) return "Airflow does not know you any more. Log in again, then try again.";
  if (status === 403) return "Airflow refused: you may not trigger the DAG refresh_packed_dataset.";
  const said = Array.isArray(detail) ? detail.map((entry) => entry.msg).join("; ") : (detail ?? "no reason given");
  return `Airflow refused (${status}): ${typeof said === "string" ? said : JSON.stringify(said)}`;
}

// Airflow names the param that it refuses.
function showRefusal(message) {
  say(message);
  const named = fields.find((field) => message.includes(`Invalid input for param ${field.name}:`));
  if (named) mark(named, message);
  (named ?? problems).focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  say("");
  const conf = readForm();
  if (conf === null) return;
  const dryRun = event.submitter?.value === "dry-run";
  if (form.dataset.knowsDryRun === "true") conf.dry_run = dryRun;
  buttons.forEach((button) => (button.disabled = true));
  try {
    const run = await call("POST", "/dagRuns", { logical_date: null, conf });
    const address = new URL(location);
    address.searchParams.set("follow", run.dag_run_id);
    history.replaceState(null, "", address);
    await followRun(run.dag_run_id);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    showRefusal(error.message);
  } finally {
    buttons.forEach((button) => (button.disabled = false));
  }
});

async function followRun(runId) {
  const path = `/dagRuns/${encodeURIComponent(runId)}`;
  document.getElementById("run-link").href = `${form.dataset.ui}/runs/${encodeURIComponent(runId)}`;
  document.getElementById("prediction").replaceChildren();
  progress.hidden = false;
  document.getElementById("progress-heading").focus({ preventScroll: true });
  progress.scrollIntoView({ block: "nearest" });
  let run = { state: "queued" };
  for (let wait = 1000; !ENDED.includes(run.state); wait = Math.min(wait * 1.2, 10000)) {
    run = await call("GET", path);
    const word = run.conf?.dry_run ? "Dry run" : "Refresh";
    const tasks = (await call("GET", `${path}/taskInstances?limit=1000`)).task_instances;
    announce(describe(word, run.state, tasks));
    if (!ENDED.includes(run.state)) await new Promise((resume) => setTimeout(resume, wait));
  }
  if (run.state === "success" && run.conf?.dry_run) await showPrediction(path);
}

// A live region repeats what is written into it, so only news are.
function announce(message) {
  if (state.textContent !== message) state.textContent = message;
}

function describe(word, runState, tasks) {
  const failed = tasks.filter((task) => task.state === "failed").map((task) => task.task_id);
  if (runState === "success") return `${word} done.`;
  if (runState === "failed") return `${word} failed${failed.length ? ` in ${[...new Set(failed)].join(", ")}` : ""}; the run's log says why.`;
  if (runState === "queued") return `${word} is queued.`;
  const running = [...new Set(tasks.filter((task) => task.state === "running").map((task) => task.task_id))];
  const waiting = tasks.some((task) => task.state === "deferred" || task.state === "awaiting_input");
  if (running.length) return `${word} is running: ${running.join(", ")}.`;
  return waiting ? `${word} waits; the run in Airflow says for what.` : `${word} is running.`;
}

const ROWS = [
  ["sequences", "Sequences"], ["packs", "Packs"], ["lower_bound", "Lower bound (packs)"], ["gap", "Gap (packs)"],
  ["packing_efficiency", "Packing efficiency"], ["packing_factor", "Packing factor: ideal speed-up"],
  ["output_bytes", "Bytes of the packed dataset"], ["seconds", "Seconds of reading and packing, about"], ["cost", "Cost"],
  ["sampled_shards", "Raw shards that this comes from"], ["shards", "Raw shards in all"],
  ["sampled_bytes", "Bytes that this comes from"], ["bytes", "Bytes of all raw shards"], ["bytes_read", "Bytes read just now"],
];

async function showPrediction(path) {
  const entry = await call("GET", `${path}/taskInstances/predict/xcomEntries/return_value`);
  const predicted = typeof entry.value === "string" ? JSON.parse(entry.value) : entry.value;
  const table = document.createElement("table");
  const basis = predicted.exact ? "Prediction from every record" : "Prediction from a sample of the raw shards";
  table.createCaption().textContent = predicted.unchanged ? `${basis}: the packed dataset exists, a refresh would change nothing` : basis;
  for (const [name, title] of ROWS) {
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
    figure.textContent = written(name, predicted[name]);
  }
  document.getElementById("prediction").replaceChildren(table);
}

// Not rounded to a full 100.
function percent(share) {
  const text = (100 * share).toFixed(4);
  return `${text === "100.0000" && share < 1 ? "99.9999" : text} %`;
}

function written(name, value) {
  if (name === "packing_efficiency") return percent(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : value.toLocaleString("en", { maximumFractionDigits: 4 });
}

// After a reload the run is followed on.
const followed = new URL(location).searchParams.get("follow");
if (followed) {
  followRun(followed).catch((error) => {
    if (!(error instanceof Refused)) throw error;
    showRefusal(error.message);
  });
}
