"""Runs DAGs one after the other with `dag.test()` and prints what became of them as a line of JSON."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from typing import Any

from airflow.dag_processing.dagbag import DagBag


def main() -> None:
    requests = json.loads(sys.argv[1])
    bag = DagBag()
    assert not bag.import_errors, bag.import_errors
    outcomes = []
    for number, (dag_id, conf) in enumerate(requests):
        sys.stdout.write(f"\n--- request {number} ---\n")
        sys.stdout.flush()
        outcomes.append(run(bag.dags[dag_id], conf))
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
