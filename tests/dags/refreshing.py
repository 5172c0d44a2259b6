"""The stages of a refresh, one after the other as the DAG has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PARAMS = {
    "source": "/raw",
    "destination": "/out",
    "max_sequence_length": 64,
    "max_sequences_per_pack": 3,
    "max_predictions_per_sequence": 10,
    "solver": "optimal",
    "seed": 0,
    "partition_bytes": 12_000,
    "time_limit": None,
    "max_rejected": 0,
}


def scan_and_solve(stages: Any, params: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    stages.check_request(params)
    groups = stages.list_shards(params, 2)
    assert len(groups) == 2
    for group in groups:
        stages.scan_group(group, params)
    solved: tuple[dict[str, Any], list[dict[str, Any]]] = stages.solve(groups, params, {}, 2)
    return solved


def refresh(stages: Any, params: dict[str, Any], **options: Any) -> Any:
    """Every stage in turn; gives what the commit came to."""
    solved, writes = scan_and_solve(stages, params)
    for group in writes:
        stages.write_group(group, params)
    return stages.commit(solved, params, **options)


@contextmanager
def refused(match: str) -> Iterator[None]:
    """A task fails so, and is to be tried again."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    with pytest.raises(AirflowException, match=match) as caught:
        yield
    assert not isinstance(caught.value, AirflowFailException)
