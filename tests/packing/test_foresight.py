"""A dry run against the refresh that follows it, over random raw shards, changes of them, and damage to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from packing.errors import InputError, StowageError
from packing.in_memory import MemoryStorage
from packing.parallel import serial
from packing.pipeline import Refresh, refresh
from packing.predict import FIGURES, SAMPLE_BYTES, Prediction, predict
from packing.tfrecord import encode_record
from packing.types import Parameters
from tests.builders import raw_shard, stages_of, store_with

PARAMETERS = Parameters(max_sequence_length=48, max_predictions_per_sequence=8, partition_bytes=1_000)

Outcome = TypeVar("Outcome")

NAMES = [f"s{i}" for i in range(8)]

DAMAGE: list[Callable[[bytes], bytes]] = [
    lambda content: content + encode_record(b"no example"),
    lambda content: content[:-3],
    lambda content: content[: len(content) // 2] + b"\xa5" + content[len(content) // 2 + 1 :],
    lambda content: b"no tfrecord at all" + content,
]
"""What may happen to a shard; in a plain one, a record that is no example can be left out, and nothing else."""

short = st.integers(1, 40).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, min(length, 5))))
sizes = st.one_of(*[short] * 9, st.just((49, 1)))  # one in ten is too long
raw_shards = st.one_of(
    *[st.builds(raw_shard, st.lists(sizes, max_size=12), seed=st.integers(0, 3))] * 3,
    st.builds(raw_shard, st.lists(short, max_size=12), compression=st.sampled_from(["gzip", "zlib"])),
    st.sampled_from([b"", raw_shard([], compression="gzip")]),
)


@dataclass(frozen=True)
class Case:
    """Raw shards of which `before` were packed or only scanned, and what they are `now`."""

    before: dict[str, bytes]
    now: dict[str, bytes]
    max_rejected: int
    time_limit: float | None
    parameters: Parameters
    packed_before: bool

    def storage(self) -> MemoryStorage:
        """The destination as the first refresh left it, which may have failed."""
        storage = store_with(self.before)
        parameters = self.parameters if self.packed_before else replace(self.parameters, seed=99)
        outcome_of(lambda: run(storage, parameters, max_rejected=100))
        for name in self.before:
            storage.delete(f"/raw/{name}")
        for name, content in self.now.items():
            storage.write(f"/raw/{name}", content)
        return storage


@st.composite
def cases(draw: st.DrawFn) -> Case:
    before = draw(
        st.dictionaries(st.sampled_from(NAMES), raw_shards, min_size=draw(st.sampled_from([0, 3, 4])), max_size=6)
    )
    now = before | draw(st.dictionaries(st.sampled_from(NAMES), raw_shards, max_size=2))
    for name in draw(st.sets(st.sampled_from(NAMES), max_size=1)):
        now.pop(name, None)
    if now and draw(st.sampled_from([False, False, False, True])):
        name = draw(st.sampled_from(sorted(now)))
        now[name] = draw(st.sampled_from(DAMAGE))(now[name])
    return Case(
        before=before,
        now=now,
        max_rejected=draw(st.sampled_from([100, 100, 2, 0])),
        time_limit=draw(st.sampled_from([None, None, 1e-9])),
        parameters=replace(
            PARAMETERS,
            max_sequences_per_pack=draw(st.integers(1, 4)),
            partition_bytes=draw(st.sampled_from([200, 1_000, 10**9])),
        ),
        packed_before=draw(st.booleans()),
    )


def run(
    storage: MemoryStorage, parameters: Parameters, *, max_rejected: int, time_limit: float | None = None
) -> Refresh:
    return refresh(
        storage,
        stages_of(serial(storage)),
        "/raw",
        "/out",
        parameters,
        max_rejected=max_rejected,
        time_limit=time_limit,
    )


def foresee_and_run(case: Case, sample_bytes: int) -> tuple[Prediction | StowageError, Refresh | StowageError]:
    """What the dry run says, and what then becomes of the same raw shards."""
    storage = case.storage()
    options: dict[str, Any] = {"max_rejected": case.max_rejected, "time_limit": case.time_limit}
    foreseen = outcome_of(
        lambda: predict(
            storage,
            serial(storage),
            "/raw",
            "/out",
            case.parameters,
            workers=2,
            solvers=2,
            sample_bytes=sample_bytes,
            **options,
        )
    )
    return foreseen, outcome_of(lambda: run(storage, case.parameters, **options))


def outcome_of(work: Callable[[], Outcome]) -> Outcome | StowageError:
    """What it gives, or the error that it raises."""
    try:
        return work()
    except StowageError as exc:
        return exc


@settings(max_examples=60)
@given(cases())
def test_a_dry_run_that_knows_every_record_foresees_the_refresh(case: Case) -> None:
    """It fails as the refresh fails, and otherwise its figures come true."""
    foreseen, real = foresee_and_run(case, SAMPLE_BYTES)
    if isinstance(real, StowageError):
        assert (type(foreseen), str(foreseen)) == (type(real), str(real))
        return
    assert isinstance(foreseen, Prediction)
    assert foreseen.exact == (real.unchanged or not real.recipe.statistics["time_limited"])
    assert (foreseen.shards, foreseen.sampled_shards) == (len(case.now), len(case.now))
    assert foreseen.sampled_bytes == foreseen.bytes == sum(map(len, case.now.values()))
    if not foreseen.exact:
        return
    assert {name: getattr(foreseen, name) for name in FIGURES} == {
        name: real.recipe.statistics[name] for name in FIGURES
    }
    assert foreseen.unchanged == real.unchanged
    if foreseen.unchanged or not real.partitions_written or foreseen.bytes_read == foreseen.bytes:
        assert foreseen.output_bytes == real.manifest.bytes


@settings(max_examples=60)
@given(cases(), st.integers(0, 3_000))
def test_a_dry_run_from_a_sample_fails_only_where_the_refresh_does(case: Case, sample_bytes: int) -> None:
    """Or where the sample holds nothing to judge by."""
    foreseen, real = foresee_and_run(case, sample_bytes)
    if isinstance(foreseen, Prediction):
        assert foreseen.bytes_read <= sample_bytes
        assert not (foreseen.exact and isinstance(real, StowageError))
        assert foreseen.gap == foreseen.packs - foreseen.lower_bound >= 0
    elif isinstance(real, Refresh):
        assert isinstance(foreseen, InputError)
        assert "expected a whole record in its first" in str(foreseen) or "in a sample" in str(foreseen)
    else:
        assert type(foreseen) is type(real) or "a sample" in str(foreseen) or "a whole record" in str(foreseen)
