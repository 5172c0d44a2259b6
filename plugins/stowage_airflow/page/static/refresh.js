// The form that triggers a run of the DAG; follow.js, which is loaded before, follows the run.
"use strict";

const problems = document.getElementById("problems");
const buttons = [...form.querySelectorAll("button")].filter((button) => !button.disabled);
const fields = [...form.querySelectorAll("[data-kind]")];

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
    const got = text.length > 80 ? `${text.slice(0, 80)}...` : text;
    throw new Refused(`Expected what is described above, got "${got}".`);
  }
  return text;
}

function numberOf(field, text) {
  const value = Number(text);
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = field.dataset;
  if (field.dataset.kind === "integer" && !/^[+-]?\d+$/.test(text)) throw new Refused("Expected a whole number.");
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) || !Number.isFinite(value)) throw new Refused("Expected a number.");
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

// Airflow names the param that it refuses.
function showRefusal(message) {
  say(message);
  const named = fields.find((field) => message.includes(`Invalid input for param ${field.name}:`));
  if (named) mark(named, message);
  (named ?? problems).focus();
}

function showError(error) {
  if (!(error instanceof Refused)) throw error;
  showRefusal(error.message);
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
    address.search = new URLSearchParams({ follow: run.dag_run_id });
    // Loaded rather than noted in the history, as Airflow keeps the address of its frame only when that loads.
    location.replace(address);
  } catch (error) {
    showError(error);
    buttons.forEach((button) => (button.disabled = false));
  }
});

// The values that a run was started with, which a reload would have lost; whether those are all that the form shows.
function fillIn(conf) {
  for (const field of fields.filter((one) => one.name in conf)) {
    if (field.dataset.kind === "flag") field.checked = conf[field.name] === true;
    else field.value = conf[field.name] ?? "";
  }
  return fields.every((field) => field.name in conf);
}

function followOn(runId) {
  const outdated = document.getElementById("outdated");
  let [typed, known] = [false, false];
  form.addEventListener("input", () => {
    typed = true;
    outdated.hidden = !known;
  });
  const heading = document.getElementById("progress-heading");
  const show = (run) => {
    known = true;
    outdated.hidden = !typed && fillIn(run.conf ?? {});
    if (!typed) heading.focus();
  };
  followRun(runId, show).catch(showError);
}

const started = new URL(location).searchParams.get("follow");
if (started) followOn(started);
