"""Recipes to report on."""

from __future__ import annotations

from hypothesis import strategies as st

from packing.in_memory import MemoryStorage
from packing.parallel import serial
from packing.pipeline import refresh
from packing.solve import solve_histogram
from packing.types import SOLVERS, Histogram, Parameters, Recipe
from tests.builders import random_sizes, raw_shard, stages_of

NASTY = 'a|b`c` _d_ *e* <script src="//x">f</script> &amp; "g" \'h\' [i](j) \\ ~k~'


@st.composite
def histogram_recipes(draw: st.DrawFn) -> Recipe:
    """Solved by any solver, for any small histogram."""
    length = draw(st.integers(1, 40))
    counts = draw(st.lists(st.integers(0, 3000), min_size=length, max_size=length).filter(any))
    parameters = Parameters(
        max_sequence_length=length,
        max_sequences_per_pack=draw(st.integers(1, 5)),
        max_predictions_per_sequence=5,
        solver=draw(st.sampled_from(SOLVERS)),
    )
    return solve_histogram(parameters, Histogram(tuple(counts)))


def dataset_recipe(source: str = "/raw") -> Recipe:
    """Of raw shards with a name that means something in HTML and Markdown, one record left out."""
    storage = MemoryStorage()
    bad = raw_shard([(64, 5)], slots=64) + raw_shard([(3, 1)], slots=64)
    storage.write(f"{source}/{NASTY.replace('/', '%')}", bad.replace(bad[-200:-190], b"\xff" * 10))
    for number in range(3):
        storage.write(f"{source}/part-{number}", raw_shard(random_sizes(40, seed=number), seed=number))
    parameters = Parameters(max_sequence_length=64, max_predictions_per_sequence=10, partition_bytes=12_000)
    return refresh(storage, stages_of(serial(storage)), source, "/out", parameters, max_rejected=2).recipe
