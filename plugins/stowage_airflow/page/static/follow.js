// Follows a run of the DAG to its end: what it does or waits for, why it failed, what a dry run predicts.
"use strict";

const form = document.getElementById("refresh");
const progress = document.getElementById("progress");
const state = document.getElementById("state");
const details = document.getElementById("details");
const ENDED = ["success", "failed"];
const DONE = ["success", "skipped", "removed"];
const UNDONE = ["running", "deferred", "awaiting_input", "up_for_retry", "failed"];
const WAITS = { first: 1000, longest: 10000 };
let followed = "";

// What Airflow or a person has to be told; `passing` if the same request may be answered later.
class Refused extends Error {
  constructor(message, passing = false) {
    super(message);
    this.passing = passing;
  }
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
    throw new Refused("Airflow does not answer. Check the connection, then try again.", true);
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  throw new Refused(reason(answer.status, content.detail), answer.status >= 500);
}

function reason(status, detail) {
  if (status === 401) return "Airflow does not know you any more. Log in again, then try again.";
  if (status === 403) return "Airflow refused: you may not trigger the DAG refresh_packed_dataset.";
  const said = Array.isArray(detail) ? detail.map((entry) => entry.msg).join("; ") : (detail ?? "no reason given");
  return `Airflow refused (${status}): ${typeof said === "string" ? said : JSON.stringify(said)}`;
}

async function followRun(runId) {
  followed = runId;
  const path = `/dagRuns/${encodeURIComponent(runId)}`;
  document.getElementById("run-link").href = uiAddress(runId);
  details.replaceChildren();
  progress.hidden = false;
  document.getElementById("progress-heading").focus({ preventScroll: true });
  progress.scrollIntoView({ block: "nearest" });
  // Until another run is followed instead.
  for (let wait = WAITS.first; followed === runId; wait = Math.min(wait * 1.2, WAITS.longest)) {
    try {
      const run = await call("GET", path);
      const ended = ENDED.includes(run.state);
      await (ended ? showEnd : showProgress)(run, path);
      if (ended) return;
    } catch (error) {
      // The run goes on without this page, so what passes is waited for.
      if (!(error instanceof Refused) || !error.passing) throw error;
      announce("Airflow does not answer; asking again.");
    }
    await new Promise((resume) => setTimeout(resume, wait));
  }
}

async function showProgress(run, path) {
  const name = nameOf(run);
  if (run.state === "queued") {
    const ahead = (await call("GET", "/dagRuns?state=running&limit=1")).dag_runs[0];
    announce(ahead ? `${name} is queued: one run at a time, and another is first.` : `${name} is queued.`);
    details.replaceChildren(...(ahead ? [linkTo(uiAddress(ahead.dag_run_id), "The run before it")] : []));
    return;
  }
  const [all, done, undone] = await Promise.all([find(path, [], 1), find(path, DONE, 1), find(path, UNDONE, 100)]);
  announce(describe(name, `${done.total_entries} of ${all.total_entries} tasks done`, undone.task_instances));
  const asks = undone.task_instances.some((task) => waitsForAnswer(task));
  const where = `${uiAddress(run.dag_run_id)}/required_actions`;
  details.replaceChildren(...(asks ? [linkTo(where, "Answer it in Airflow")] : []));
}

function find(path, states, limit) {
  const query = new URLSearchParams([...states.map((one) => ["state", one]), ["limit", limit]]);
  return call("GET", `${path}/taskInstances?${query}`);
}

function describe(name, count, tasks) {
  const titles = (chosen) => [...new Set(tasks.filter(chosen).map(titleOf))].join(", ");
  const running = titles((task) => task.state === "running");
  const asking = titles(waitsForAnswer);
  const again = titles((task) => task.state === "up_for_retry");
  const words = [
    running && `now: ${running}`,
    asking && "waiting for a person's approval",
    again && `to be tried again: ${again}`,
  ];
  return `${name} is running, ${[count, ...words.filter(Boolean)].join("; ")}.`;
}

async function showEnd(run, path) {
  announce(`${nameOf(run)} ${run.state === "success" ? "done" : "failed"}.`);
  if (run.state === "failed") details.replaceChildren(await failures(run, path));
  else if (run.conf?.dry_run) details.replaceChildren(await prediction(path));
  else details.replaceChildren();
}

// The failed tasks, each with the last thing that it said and the way to its log.
async function failures(run, path) {
  const list = document.createElement("ul");
  for (const task of (await find(path, ["failed"], 5)).task_instances) {
    const mapped = task.map_index >= 0 ? `/mapped/${task.map_index}` : "";
    const entry = list.appendChild(document.createElement("li"));
    const log = linkTo(`${uiAddress(run.dag_run_id)}/tasks/${encodeURIComponent(task.task_id)}${mapped}`, "its log");
    entry.append(`${titleOf(task)}: ${(await lastError(path, task)) || "no message"} (`, log, ")");
  }
  return list;
}

async function lastError(path, task) {
  const where = `${path}/taskInstances/${encodeURIComponent(task.task_id)}/logs/${task.try_number}`;
  try {
    const { content } = await call("GET", `${where}?full_content=true&map_index=${task.map_index}`);
    const errors = content.flatMap((event) => event.error_detail ?? []);
    return errors.map((error) => error.exc_value).findLast(Boolean);
  } catch (error) {
    // Who may see a run need not be allowed to read its logs.
    if (!(error instanceof Refused)) throw error;
    return error.message;
  }
}

// A live region repeats what is written into it, so only news are.
function announce(message) {
  if (state.textContent !== message) state.textContent = message;
}

function nameOf(run) {
  return run.conf?.dry_run ? "Dry run" : "Refresh";
}

function titleOf(task) {
  return task.task_display_name || task.task_id;
}

function waitsForAnswer(task) {
  return task.task_id === "approve" && ["deferred", "awaiting_input"].includes(task.state);
}

function uiAddress(runId) {
  return `${form.dataset.ui}/runs/${encodeURIComponent(runId)}`;
}

// Within Airflow's frame page.js lets Airflow's own document follow it.
function linkTo(address, text) {
  const link = document.createElement("a");
  link.href = address;
  link.target = "_top";
  link.textContent = text;
  return link;
}

const ROWS = [
  ["sequences", "Sequences"], ["packs", "Packs"], ["lower_bound", "Lower bound (packs)"], ["gap", "Gap (packs)"],
  ["packing_efficiency", "Packing efficiency"], ["packing_factor", "Packing factor: ideal speed-up"],
  ["output_bytes", "Bytes of the packed dataset"], ["seconds", "Seconds of reading and packing, about"], ["cost", "Cost"],
  ["sampled_shards", "Raw shards that this comes from"], ["shards", "Raw shards in all"],
  ["sampled_bytes", "Bytes that this comes from"], ["bytes", "Bytes of all raw shards"], ["bytes_read", "Bytes read just now"],
];

async function prediction(path) {
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
  return table;
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
