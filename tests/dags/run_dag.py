"""Runs DAGs one after the other with `dag.test()` and prints what became of them as a line of JSON."""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import datetime, timezone
from typing import Any

from airflow.dag_processing.dagbag import DagBag


def main() -> None:
    requests = json.loads(sys.argv[1])
    bag = DagBag()
    assert not bag.import_errors, bag.import_errors
    outcomes = []
    for number, (dag_id, conf, *answers) in enumerate(requests):
        sys.stdout.write(f"\n--- request {number} ---\n")
        sys.stdout.flush()
        asked: list[dict[str, Any]] = []
        for answer in answers:
            threading.Thread(target=respond, args=(dag_id, answer, asked), daemon=True).start()
        outcomes.append({**run(bag.dags[dag_id], conf), "asked": asked})
    sys.stdout.write("\n" + json.dumps(outcomes) + "\n")


def run(dag: Any, conf: dict[str, Any]) -> dict[str, Any]:
    finished = dag.test(run_conf=conf, logical_date=datetime.now(timezone.utc))
    tasks: dict[str, list[str]] = {}
    for instance in finished.get_task_instances():
        tasks.setdefault(instance.task_id, []).append(str(instance.state))
    return {
        "state": str(finished.state),
        "tasks": tasks,
        "events": asset_events(finished.run_id),
        "xcoms": xcoms(finished.run_id),
    }


def respond(dag_id: str, answer: str, asked: list[dict[str, Any]]) -> None:
    """Answer the first question of a run by the REST API, after a viewer has tried to."""
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from starlette.testclient import TestClient

    with TestClient(create_app(apps="core")) as client:

        def as_user(name: str, role: str) -> dict[str, str]:
            token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=name, role=role))
            return {"Authorization": f"Bearer {token}"}

        viewer, admin = as_user("vera", "viewer"), as_user("ada", "admin")
        url = f"/api/v2/dags/{dag_id}/dagRuns/~/hitlDetails"
        while True:
            found = client.get(url, params={"response_received": False, "state": "awaiting_input"}, headers=admin)
            found.raise_for_status()
            if details := found.json()["hitl_details"]:
                break
            time.sleep(1)
        instance = details[0]["task_instance"]
        one = (
            f"/api/v2/dags/{dag_id}/dagRuns/{instance['dag_run_id']}/taskInstances/{instance['task_id']}/-1/hitlDetails"
        )
        body = {"chosen_options": [answer], "params_input": {}}
        refused = client.patch(one, json=body, headers=viewer)
        done = client.patch(one, json=body, headers=admin)
        question = {name: details[0][name] for name in ("subject", "body")}
        asked.append({**question, "as_viewer": refused.status_code, "as_admin": done.status_code})


def asset_events(run_id: str) -> list[dict[str, Any]]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == run_id)).all()
        return [{"uri": event.asset.uri, "extra": event.extra} for event in events]


def xcoms(run_id: str) -> list[dict[str, Any]]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(XComModel).where(XComModel.run_id == run_id)).all()
        return [{"task": entry.task_id, "key": entry.key, "value": entry.value} for entry in found]


if __name__ == "__main__":
    main()
