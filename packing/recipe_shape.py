"""The shape of a recipe's JSON document: its fields and their types (DESIGN: Recipe)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packing.recipe import SCHEMA_VERSION
from packing.shape import COUNT, DIGEST, FLAG, INTEGER, RANGE, REAL, SIZE, TEXT, Shape, Value, exactly, shape_problems

LOWER_BOUND_METHODS = (
    "tokens",
    "sequences",
    "tokens, long sequences",
    "sequences, long sequences",
    "column generation",
)

_METHOD = Value(f"one of {', '.join(map(repr, LOWER_BOUND_METHODS))}", lambda value: value in LOWER_BOUND_METHODS)

_STRATEGIES: Shape = [{"lengths": [COUNT], "count": COUNT}]

_SHAPE: Shape = {
    "schema_version": exactly(SCHEMA_VERSION),
    "input_id": DIGEST,
    "recipe_id": DIGEST,
    "producer": {"version": TEXT, "commit": TEXT, "lock_sha256": TEXT},
    "parameters": {
        "max_sequence_length": INTEGER,
        "max_sequences_per_pack": INTEGER,
        "max_predictions_per_sequence": INTEGER,
        "solver": TEXT,
        "seed": INTEGER,
        "partition_bytes": INTEGER,
    },
    "dataset": {
        "fingerprint": DIGEST,
        "shards": [{"name": TEXT, "uri": TEXT, "size": SIZE, "etag": TEXT, "sha256": DIGEST, "sequences": SIZE}],
    },
    "histogram": {"max_sequence_length": COUNT, "counts": [SIZE]},
    "strategies": _STRATEGIES,
    "partitions": [
        {
            "input_id": DIGEST,
            "digest": DIGEST,
            "shards": [TEXT],
            "records": RANGE,
            "sequences": COUNT,
            "strategies": _STRATEGIES,
            "complete": FLAG,
        }
    ],
    "rejected": [{"shard": TEXT, "record": SIZE, "offset": SIZE, "expected": TEXT, "found": TEXT}],
    "statistics": {
        "sequences": COUNT,
        "rejected": SIZE,
        "tokens": COUNT,
        "packs": COUNT,
        "partitions": COUNT,
        "lower_bound": COUNT,
        "gap": INTEGER,
        "packing_efficiency": REAL,
        "packing_factor": REAL,
        "packing_factor_upper_bound": REAL,
        "padding_tokens": SIZE,
        "padding_tokens_unpacked": SIZE,
        "lower_bound_method": _METHOD,
        "solve_seconds": REAL,
        "solve_iterations": SIZE,
        "time_limited": FLAG,
    },
    "certificate": {"prices": [SIZE], "best_pack_value": COUNT},
}


def document_problems(document: Mapping[str, Any]) -> list[str]:
    """Where a parsed JSON document is not of a recipe's shape, in words."""
    problems = list(shape_problems(document, _SHAPE))
    if not problems and document["histogram"]["max_sequence_length"] != len(document["histogram"]["counts"]):
        problems.append(
            f"histogram: expected as many counts as its max_sequence_length "
            f"{document['histogram']['max_sequence_length']}, found {len(document['histogram']['counts'])}"
        )
    return problems
