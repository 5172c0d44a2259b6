"""A task that waits for a person, in Airflow's list of required actions, if a new recipe differs too much."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException

from packing.errors import StowageError
from stowage_airflow.approval_question import approval_question, record_answer
from stowage_airflow.connections import open_storage, open_tracker, task_errors

if TYPE_CHECKING:
    from airflow.sdk import Context

    from stowage_airflow.notices import Notify

log = logging.getLogger(__name__)

APPROVAL_TIMEOUT = timedelta(days=7)


class ApproveRecipeOperator(ApprovalOperator):
    """Ask whether to write what was solved, if the run's param `approve_above` (percent) says so.

    Goes on at once if nothing is to be asked. A rejection skips the tasks right behind this one; nobody's answer within
    APPROVAL_TIMEOUT fails the task. Either leaves the current packed dataset as it is. Who answered what is the XCom
    `answer` and, in the recipe's run, the tag `stowage.approval`. Responding takes Airflow's permission to change the
    DAG's tasks.
    """

    def __init__(self, *, solved_by: str, notifiers: Sequence[Notify] = (), **kwargs: Any) -> None:
        super().__init__(
            subject="The new recipe for {{ params.destination }} differs from the current one: make it current?",
            body="Filled in when there is something to ask.",
            response_timeout=APPROVAL_TIMEOUT,
            notifiers=[partial(_notify, notifier) for notifier in notifiers],
            **kwargs,
        )
        self.solved_by = solved_by

    def execute(self, context: Context) -> Any:
        """Wait for a person, or go on."""
        with task_errors():
            question = approval_question(open_storage(), open_tracker(), self._solved(context), context["params"])
        if not question:
            self.log.info("nothing to approve: first refresh, nothing changed, no threshold or none exceeded")
            return None
        self.log.info("waiting for approval\n%s", question)
        self.body = question
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Record who answered what; a rejection skips the write and the commit."""
        if "error" in event:
            raise AirflowFailException(
                f"no answer within {APPROVAL_TIMEOUT.days} days, nothing was written and the current packed dataset "
                f"stays; trigger the DAG again to be asked again ({event['error']})"
            )
        # Recorded first: a rejection leaves by an exception.
        self._record(context, event)
        super().execute_complete(context, event)

    def _record(self, context: Context, event: dict[str, Any]) -> None:
        """Tell the log, the XCom and MLflow; a retry would ask again, so that MLflow is away is no failure."""
        from packing.uris import absolute

        user, at = (event["responded_by_user"] or {}).get("name", "unknown"), event["responded_at"]
        chosen, params = event["chosen_options"][0], context["params"]
        rejected = chosen == self.REJECT
        effect = "nothing is written, the current packed dataset stays" if rejected else "writing it"
        self.log.info("%s chose %s: %s", user, chosen, effect)
        context["ti"].xcom_push(key="answer", value={"answer": chosen, "by": user})
        answer = (
            f"{'rejected' if rejected else 'approved'} by {user}, "
            f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC, asked above {params['approve_above']:g} %"
        )
        try:
            record_answer(open_tracker(), self._solved(context)["recipe_id"], absolute(params["destination"]), answer)
        except StowageError as exc:
            self.log.warning("%s; MLflow does not know of this answer, Airflow keeps it with this task", exc)

    def _solved(self, context: Context) -> Any:
        return context["ti"].xcom_pull(task_ids=self.solved_by, key="solved")


def _notify(notifier: Notify, context: Context) -> None:
    """As Airflow does with a task's callbacks: what cannot be sent is logged, and the task goes on."""
    try:
        notifier(context)
    except Exception:
        log.exception("nobody could be told; the question stands under Required Actions")
