"""Who is told when a run ends or is late, by Airflow's notifiers: what happened, where, what to do, and a link.

`STOWAGE_NOTIFY` is a JSON list with one object for each notifier: its class under `notifier`, and its arguments, in
which `$subject` and `$message` stand for the notice's own texts, such as

    [{"notifier": "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
      "to": "data@example.org", "subject": "$subject", "html_content": "$message"}]
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pkgutil import resolve_name
from string import Template
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference  # type: ignore[attr-defined] # not in its stub
from airflow.sdk.configuration import conf

from packing.errors import UsageError

log = logging.getLogger(__name__)

Notify = Callable[[Any], None]


@dataclass(frozen=True)
class Notice:
    """The texts of one kind of notice, as templates of Airflow's context."""

    subject: str
    message: str


_BASE = conf.get("api", "base_url", fallback="").rstrip("/")
_RUN = f"{_BASE}/dags/{{{{ dag.dag_id }}}}/runs/{{{{ run_id | urlencode }}}}"
# The DAG processor knows the task that failed last; if a run fails without one, it knows the run only.
_FAILED = (
    "The run {{ run_id }} of {{ dag.dag_id }} failed"
    "{% if ti is defined %} in the task {{ ti.task_id }}, whose log says why: {{ ti.log_url }}{% endif %}. "
)

REFRESH_FAILED = Notice(
    "{{ dag.dag_id }} failed{% if ti is defined %}: {{ ti.task_id }}{% endif %}",
    _FAILED + "{% if ti is defined and ti.task_id == 'audit' %}The packed dataset was committed before and is the "
    "current one; trainings may have begun with it. If its audit failed, do not use it: mend what the log names, and "
    "trigger the DAG again with Audit. "
    "{% else %}What was current before it still is. Mend what the log names, then trigger the DAG again: what is done "
    "already is not done again. {% endif %}"
    f"All of the run: {_RUN}",
)
TRAINING_FAILED = Notice(
    "{{ dag.dag_id }} failed{% if ti is defined %}: {{ ti.task_id }}{% endif %}",
    f"{_FAILED}Mend what the log names, and clear that task: a training goes on from its last checkpoint. If the "
    f"run's options were wrong, trigger the DAG again with others. All of the run: {_RUN}",
)
APPROVAL_WANTED = Notice(
    "{{ dag.dag_id }} waits for an approval",
    "{{ task.body.splitlines()[0] }} Approve or reject it within {{ task.response_timeout.days }} days; until then no "
    "other refresh starts. The question with all figures: "
    f"{_RUN}/tasks/{{{{ ti.task_id }}}}/required_actions",
)
DATASET_REFRESHED = Notice(
    "{{ dag.dag_id }}: {{ ti.xcom_pull(task_ids='commit', key='outcome')['words'] }}",
    "{% set done = ti.xcom_pull(task_ids='commit') %}The packed dataset below {{ params.destination }} holds "
    "{{ '{:,}'.format(done['sequences']) }} sequences in {{ '{:,}'.format(done['packs']) }} packs "
    "({{ '%.2f' % done['packing_factor'] }} a pack, {{ '%.2f' % (100 * done['packing_efficiency']) }} % real tokens). "
    "Manifest: {{ done['manifest'] }}. "
    f"{{{{ ti.xcom_pull(task_ids='commit', key='outcome')['refusal'] or 'There is nothing to do.' }}}} {_RUN}",
)
MODEL_TRAINED = Notice(
    "{{ dag.dag_id }}: the training is done",
    "The training of {{ run_id }} is done; its figures, checkpoints and loss curves are in its MLflow run, "
    f"which the task's button opens. There is nothing to do. {_RUN}",
)
RUN_LATE = Notice(  # the triggerer has the run as the REST API gives it, and no DAG
    "{{ dag_run.dag_id }} is late",
    "The run {{ dag_run.dag_run_id }} of {{ dag_run.dag_id }} has not ended by {{ deadline.deadline_time }}; it goes "
    "on. Look at which task runs or waits: for a free worker, or for a person's approval. "
    f"{_BASE}/dags/{{{{ dag_run.dag_id }}}}/runs/{{{{ dag_run.dag_run_id | urlencode }}}}",
)


def notifiers(targets: str, notice: Notice) -> list[Notify]:
    """What Airflow calls to send `notice` to the configured `targets`; raises UsageError for targets that are none."""
    return [resolve_name(path)(**arguments) for path, arguments in _targets(targets, notice)]


def deadline_alerts(targets: str, minutes: float | None) -> list[DeadlineAlert]:
    """Alerts, sent by Airflow's triggerer, once a run has not ended within `minutes` of being queued.

    They go to the configured `targets`, which need an `async_notify`, or else to the triggerer's log.
    """
    if minutes is None:
        return []
    callbacks = [
        AsyncCallback(notify_of_late_run, kwargs={"notifier": path, "arguments": dict(arguments)})
        for path, arguments in _targets(targets, RUN_LATE)
    ]
    return [
        DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, timedelta(minutes=minutes), callback, name="late")
        for callback in callbacks or [AsyncCallback(log_late_run)]
    ]


async def notify_of_late_run(context: Mapping[str, Any], notifier: str, arguments: Mapping[str, Any]) -> None:
    """A deadline's callback that sends a notice."""
    if not _has_ended(context):
        notice = resolve_name(notifier)(**arguments)
        notice.context = context
        await notice


async def log_late_run(context: Mapping[str, Any]) -> None:
    """A deadline's callback where nobody is to be notified."""
    run, deadline = context["dag_run"], context["deadline"]
    if not _has_ended(context):
        log.warning("run %s of %s has not ended by %s", run["dag_run_id"], run["dag_id"], deadline["deadline_time"])


def _has_ended(context: Mapping[str, Any]) -> bool:
    """Airflow keeps the deadlines of runs that failed, and reads the run's state when the deadline has passed."""
    return context["dag_run"]["state"] in ("failed", "success")


def _targets(targets: str, notice: Notice) -> list[tuple[str, Mapping[str, Any]]]:
    """Class path and arguments of each notifier, with the notice's texts filled in."""
    try:
        entries = [dict(entry) for entry in json.loads(targets or "[]")]
        return [(str(entry.pop("notifier")), _fill(entry, notice)) for entry in entries]
    except (ValueError, TypeError, KeyError) as exc:
        raise UsageError(
            f'STOWAGE_NOTIFY: expected a JSON list of objects such as {{"notifier": "a.b.Notifier", "to": "..."}}, '
            f"got one that cannot be read ({type(exc).__name__}: {exc})"
        ) from exc


def _fill(arguments: Mapping[str, Any], notice: Notice) -> dict[str, Any]:
    texts = {"subject": notice.subject, "message": notice.message}
    return {
        name: Template(value).safe_substitute(texts) if isinstance(value, str) else value
        for name, value in arguments.items()
    }
