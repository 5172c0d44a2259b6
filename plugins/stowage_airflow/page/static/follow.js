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

let titles = {};

// What Airflow or a person has to be told; with the HTTP status, 0 for no answer, if Airflow refused.
class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }

  // Whether the same request may be answered later.
  get passing() {
    return this.status === 0 || this.status >= 500 || this.status === 429;
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
    const then = method === "GET" ? "Check the connection, then try again." : "It may have started the run all the same: look at the DAG's runs before you try again.";
    throw new Refused(`Airflow does not answer. ${then}`, 0);
  }
  const content = await answer.json().catch(() => null);
  if (answer.ok && content === null) throw new Refused("Airflow's answer was cut off. Look at the DAG's runs before you try again.", 0);
  if (answer.ok) return content;
  throw new Refused(reason(method, answer.status, content?.detail), answer.status);
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
  progress.hidden = false;
  for (let wait = WAITS.first, known = false; ; wait = Math.min(wait * 1.2, WAITS.longest)) {
    try {
      const run = await call("GET", path);
      if (!known) await introduce(run, onRun);
      known = true;
      const ended = ENDED.includes(run.state);
      await (ended ? showEnd : showProgress)(run, path);
      if (ended) return;
    } catch (error) {
      // The run goes on without this page, so what passes is waited for.
      if (error instanceof Refused && error.passing) {
        announce("Airflow does not answer; asking again.");
      } else {
        announce("");
        progress.hidden = !known;
        throw error;
      }
    }
    await new Promise((resume) => setTimeout(resume, wait));
  }
}

async function introduce(run, onRun) {
  const { source, destination } = run.conf ?? {};
  document.getElementById("what").textContent = source && destination ? `${source} to ${destination}` : "";
  const { tasks } = await call("GET", "/tasks");
  titles = Object.fromEntries(tasks.map((task) => [task.task_id, task.task_display_name]));
  onRun(run);
}

async function showProgress(run, path) {
  if (run.state === "queued") return showQueue(run);
  const [all, done, undone] = await Promise.all([find(path, [], 1), find(path, DONE, 1), find(path, UNDONE, 100)]);
  announce(describe(nameOf(run), `${done.total_entries} of ${all.total_entries} tasks done`, undone.task_instances));
  const asks = undone.task_instances.some((task) => waitsForAnswer(task));
  const where = `${uiAddress(run.dag_run_id)}/required_actions`;
  offer(asks ? where : "", "Answer it in Airflow");
}

// A link that is there already stays, as it may have the focus.
function offer(address, text) {
  if (address && details.querySelector("a")?.getAttribute("href") === address) return;
  details.replaceChildren(...(address ? [linkTo(address, text)] : []));
}

// One run at a time goes on, and none while the DAG is paused.
async function showQueue(run) {
  const [dag, running] = await Promise.all([call("GET", ""), call("GET", "/dagRuns?state=running&limit=1")]);
  const [ahead] = running.dag_runs;
  const why = dag.is_paused ? ": the DAG is paused; resume it in Airflow" : ahead ? ": another run is first" : "";
  announce(`${nameOf(run)} is queued${why}.`);
  offer(ahead ? uiAddress(ahead.dag_run_id) : "", "The run before it");
}

function find(path, states, limit) {
  const query = new URLSearchParams([...states.map((one) => ["state", one]), ["limit", limit]]);
  return call("GET", `${path}/taskInstances?${query}`);
}

function describe(name, count, tasks) {
  const named = (chosen) => [...new Set(tasks.filter(chosen).map(titleOf))].join(", ");
  const running = named((task) => task.state === "running");
  const asking = named(waitsForAnswer);
  const again = named((task) => task.state === "up_for_retry");
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
  const [outcome, committed, answer] = await Promise.all([
    ifThere(result(tasks, "commit", "outcome")),
    ifThere(result(tasks, "commit", "return_value")),
    ifThere(result(tasks, "approve", "answer")),
  ]);
  if (outcome && committed) {
    const query = new URLSearchParams({ destination: committed.manifest.replace(/\/manifests\/[^/]*$/, "") });
    const address = `${form.dataset.page}/recipes/${committed.recipe_id}?${query}`;
    announce(`${name} done: ${outcome.words}.`);
    const refusal = document.createElement("p");
    refusal.textContent = outcome.refusal;
    details.replaceChildren(...(outcome.refusal ? [refusal] : []), linkTo(address, "Its recipe", "_self"));
  } else if (answer?.answer === "Reject") {
    announce(`${name} done: ${answer.by} rejected it, so nothing was written and the current packed dataset stays.`);
  } else {
    announce(`${name} ended without a commit; the run in Airflow says how.`);
  }
}

async function result(tasks, task, key) {
  const { value } = await call("GET", `${tasks}/${task}/xcomEntries/${key}`);
  return typeof value === "string" ? JSON.parse(value) : value;
}

// null where Airflow has no such thing.
async function ifThere(asked) {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
}

// The failed tasks, each with the last thing that it said and the way to its log.
async function failures(run, path) {
  const { task_instances: failed, total_entries: count } = await find(path, ["failed"], 5);
  if (count === 0) return "No task failed: a person or Airflow itself ended the run.";
  const list = document.createElement("ul");
  for (const task of failed) {
    const mapped = task.map_index >= 0 ? `/mapped/${task.map_index}` : "";
    const entry = list.appendChild(document.createElement("li"));
    const log = linkTo(`${uiAddress(run.dag_run_id)}/tasks/${encodeURIComponent(task.task_id)}${mapped}`, "its log");
    const which = task.rendered_map_index ? ` (${task.rendered_map_index})` : "";
    entry.append(`${titleOf(task)}${which}: ${(await lastError(path, task)) || "no message"} (`, log, ")");
  }
  if (count > failed.length) list.appendChild(document.createElement("li")).append(`${count - failed.length} more`);
  return list;
}

async function lastError(path, task) {
  const where = `${path}/taskInstances/${encodeURIComponent(task.task_id)}/logs/${task.try_number}`;
  try {
    const { content } = await call("GET", `${where}?full_content=true&map_index=${task.map_index}`);
    // The error itself comes first, what led to it behind it.
    return content.findLast((event) => event.error_detail?.length)?.error_detail[0].exc_value;
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

// Airflow names only the first of mapped tasks by its title.
function titleOf(task) {
  return titles[task.task_id] ?? task.task_id;
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
