from __future__ import annotations

import json

import pytest

from packing.errors import InputError, UsageError, VerificationError
from packing.recipe import read_recipe, recipe_bytes, recipe_to_json
from packing.solve import solve_histogram
from packing.types import Histogram, Parameters
from tests.builders import store_with

HISTOGRAM = Histogram((0, 0, 7, 5, 9, 1, 0, 4))
PARAMETERS = Parameters(max_sequence_length=8)


def test_a_recipe_reads_back_as_it_was_written() -> None:
    recipe = solve_histogram(PARAMETERS, HISTOGRAM)
    storage = store_with({})
    storage.write("/r.json", recipe_bytes(recipe))
    assert recipe_to_json(read_recipe(storage, "/r.json")) == recipe_to_json(recipe)


def test_its_id_follows_from_the_stated_fields_of_its_json() -> None:
    import hashlib

    document = json.loads(recipe_bytes(solve_histogram(PARAMETERS, HISTOGRAM)))
    fields = {name: document[name] for name in ("input_id", "strategies", "partitions")}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    assert document["recipe_id"] == hashlib.sha256(canonical).hexdigest()


def test_its_figures_hold_together() -> None:
    document = json.loads(recipe_bytes(solve_histogram(PARAMETERS, HISTOGRAM)))
    statistics, counts = document["statistics"], document["histogram"]["counts"]
    packs = sum(strategy["count"] for strategy in document["strategies"])
    tokens = sum(length * count for length, count in enumerate(counts, start=1))
    certificate = document["certificate"]
    worth = sum(price * count for price, count in zip(certificate["prices"], counts, strict=True))
    assert statistics["packs"] == packs
    assert statistics["lower_bound"] == -(-worth // certificate["best_pack_value"])
    assert statistics["gap"] == packs - statistics["lower_bound"] >= 0
    assert statistics["packing_efficiency"] == tokens / (packs * 8)
    assert statistics["packing_factor"] == sum(counts) / packs
    assert statistics["padding_tokens"] == packs * 8 - tokens


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d["strategies"][0].update(count=99), VerificationError),
        (lambda d: d.update(input_id="0" * 64), VerificationError),
        (lambda d: d["partitions"][0].update(sequences=1), VerificationError),
        (lambda d: d.pop("certificate"), InputError),
        (lambda d: d.update(schema_version=99), InputError),
    ],
)
def test_an_altered_recipe_is_refused(change: object, error: type[Exception]) -> None:
    document = json.loads(recipe_bytes(solve_histogram(PARAMETERS, HISTOGRAM)))
    change(document)  # type: ignore[operator]
    storage = store_with({})
    storage.write("/r.json", json.dumps(document).encode())
    with pytest.raises(error, match=r"^/r\.json: "):
        read_recipe(storage, "/r.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_sequence_length", 0),
        ("max_sequences_per_pack", 0),
        ("max_sequences_per_pack", True),
        ("max_predictions_per_sequence", -1),
        ("solver", "magic"),
        ("seed", -1),
        ("partition_bytes", 0),
    ],
)
def test_parameters_that_cannot_work_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"^{name}: expected .*, got {value!r}"):
        Parameters(**{name: value})  # type: ignore[arg-type]
