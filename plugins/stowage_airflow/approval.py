"""A task that waits for a person, in Airflow's list of required actions, if a new recipe differs too much."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException

from stowage_airflow import stages

if TYPE_CHECKING:
    from airflow.sdk import Context

APPROVAL_TIMEOUT = timedelta(days=7)


class ApproveRecipeOperator(ApprovalOperator):
    """Ask whether to write what was solved, if the run's param `approve_above` (percent) says so.

    Goes on at once if nothing is to be asked. A rejection skips the tasks right behind this one; nobody's answer within
    APPROVAL_TIMEOUT fails the task. Either leaves the current packed dataset as it is. Responding takes Airflow's
    permission to change the DAG's tasks.
    """

    def __init__(self, *, solved_by: str, **kwargs: Any) -> None:
        super().__init__(
            subject="The new recipe differs from the current one: write its packed dataset?",
            body="Filled in when there is something to ask.",
            response_timeout=APPROVAL_TIMEOUT,
            **kwargs,
        )
        self.solved_by = solved_by

    def execute(self, context: Context) -> Any:
        """Wait for a person, or go on."""
        solved = context["ti"].xcom_pull(task_ids=self.solved_by, key="solved")
        question = stages.approval_question(solved, context["params"])
        if not question:
            self.log.info("nothing to approve: first refresh, nothing changed, no threshold or none exceeded")
            return None
        self.log.info("waiting for approval\n%s", question)
        self.body = question
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Who answered what; a rejection has skipped the write and the commit."""
        if "error" in event:
            raise AirflowFailException(
                f"no answer within {APPROVAL_TIMEOUT.days} days, nothing was written and the current packed dataset "
                f"stays; trigger the DAG again to be asked again ({event['error']})"
            )
        # Told first: a rejection leaves by an exception.
        chosen, user = event["chosen_options"][0], (event["responded_by_user"] or {}).get("name", "unknown")
        effect = "nothing is written, the current packed dataset stays" if chosen == self.REJECT else "writing it"
        self.log.info("%s chose %s: %s", user, chosen, effect)
        super().execute_complete(context, event)
        return {"answer": chosen, "by": user}
