// Follows a run of the DAG to its end: what it does or waits for, why it failed, what it came to.
"use strict";

const form = document.getElementById("refresh");
const progress = document.getElementById("progress");
const state = document.getElementById("state");
const details = document.getElementById("details");
const ENDED = ["success", "failed"];
const DONE = ["success", "skipped", "removed"];
const UNDONE = ["running", "deferred", "awaiting_input", "up_for_retry", "failed"];
const WAITS = { first: 1000, longest: 10000 };

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
  throw new Refused(reason(method, answer.status, content.detail), answer.status >= 500 || answer.status === 429);
}

function reason(method, status, detail) {
  if (status === 401) {
    const then = method === "GET" ? "reload this page; the run goes on" : "try again";
    return `Airflow does not know you any more. Log in again in another tab, then ${then}.`;
  }
  if (status === 403) {
    const what = method === "GET" ? "see this part of a run of" : "trigger";
    return `Airflow refused: you may not ${what} the DAG refresh_packed_dataset.`;
  }
  const said = Array.isArray(detail) ? detail.map((entry) => entry.msg).join("; ") : (detail ?? "no reason given");
  return `Airflow refused (${status}): ${typeof said === "string" ? said : JSON.stringify(said)}`;
}

// `onRun` is given the run once, as soon as it is known.
async function followRun(runId, onRun) {
  const path = `/dagRuns/${encodeURIComponent(runId)}`;
  document.getElementById("run-link").href = uiAddress(runId);
  for (let wait = WAITS.first, known = false; ; wait = Math.min(wait * 1.2, WAITS.longest)) {
    try {
      const run = await call("GET", path);
      if (!known) introduce(run, onRun);
      known = true;
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

function introduce(run, onRun) {
  const { source, destination } = run.conf ?? {};
  document.getElementById("what").textContent = source && destination ? `${source} to ${destination}` : "";
  progress.hidden = false;
  document.getElementById("progress-heading").focus({ preventScroll: true });
  progress.scrollIntoView({ block: "nearest" });
  onRun(run);
}

async function showProgress(run, path) {
  if (run.state === "queued") return showQueue(run);
  const [all, done, undone] = await Promise.all([find(path, [], 1), find(path, DONE, 1), find(path, UNDONE, 100)]);
  announce(describe(nameOf(run), `${done.total_entries} of ${all.total_entries} tasks done`, undone.task_instances));
  const asks = undone.task_instances.some((task) => waitsForAnswer(task));
  const where = `${uiAddress(run.dag_run_id)}/required_actions`;
  details.replaceChildren(...(asks ? [linkTo(where, "Answer it in Airflow")] : []));
}

// One run at a time goes on, and none while the DAG is paused.
async function showQueue(run) {
  const [dag, running] = await Promise.all([call("GET", ""), call("GET", "/dagRuns?state=running&limit=1")]);
  const [ahead] = running.dag_runs;
  const why = dag.is_paused ? ": the DAG is paused; resume it in Airflow" : ahead ? ": another run is first" : "";
  announce(`${nameOf(run)} is queued${why}.`);
  details.replaceChildren(...(ahead ? [linkTo(uiAddress(ahead.dag_run_id), "The run before it")] : []));
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
  const [name, tasks] = [nameOf(run), `${path}/taskInstances`];
  announce(`${name} ${run.state === "failed" ? "failed" : "done"}.`);
  if (run.state === "failed") details.replaceChildren(await failures(run, path));
  else if (run.conf?.dry_run) details.replaceChildren(predictionTable(await result(tasks, "predict", "return_value")));
  else await showOutcome(name, tasks);
}

async function showOutcome(name, tasks) {
  if ((await call("GET", `${tasks}/commit`)).state === "skipped") {
    announce(`${name} done: it was rejected, so nothing was written and the current packed dataset stays.`);
    details.replaceChildren();
    return;
  }
  const [{ words, refusal }, { recipe_id: recipe }] = await Promise.all([
    result(tasks, "commit", "outcome"),
    result(tasks, "commit", "return_value"),
  ]);
  announce(`${name} done: ${words}.`);
  details.replaceChildren(refusal, linkTo(`${form.dataset.page}/recipes/${recipe}`, "Its recipe", "_self"));
}

async function result(tasks, task, key) {
  const { value } = await call("GET", `${tasks}/${task}/xcomEntries/${key}`);
  return typeof value === "string" ? JSON.parse(value) : value;
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

// Within Airflow's frame page.js lets Airflow's own document follow what has another target than the frame itself.
function linkTo(address, text, target = "_top") {
  const link = document.createElement("a");
  link.href = address;
  if (target !== "_self") link.target = target;
  link.textContent = text;
  return link;
}
