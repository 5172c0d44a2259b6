"""Solvers: packs, proven bound, gap and seconds of each on published, random and long histograms."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.datasets import (
    LOG_NORMAL,
    LOG_NORMAL_SEED,
    SQUAD,
    WIKIPEDIA,
    log_normal_histograms,
    published_histogram,
    random_histogram,
)
from benchmarks.report import Cell, Part, Table, Target, at_least, at_most, not_measured
from benchmarks.settings import Bench, say
from packing.errors import UsageError
from packing.solvers import solve
from packing.types import SOLVERS, Histogram

# Krell et al. (arXiv 2107.02027), of the same histogram; LP bounds of the cutting-stock relaxation.
PUBLISHED_PACKS = {
    ("Wikipedia 512", 3, "nnls"): 8_155_057,
    ("Wikipedia 512", 3, "spfhp"): 9_094_695,
    ("Wikipedia 512", 3, "lpfhp"): 9_090_154,
    ("Wikipedia 512", 12, "spfhp"): 8_166_708,
    ("Wikipedia 512", 12, "lpfhp"): 8_149_619,
}
_RANDOM_SEED = 0
_EASY, _HARD = (16, 64), {2048: 4, 4096: 5, 8192: 7}


@dataclass(frozen=True)
class _Case:
    name: str
    max_sequences: int
    histogram: Histogram


@dataclass(frozen=True)
class _Answer:
    """What a solver made of a case; without packs, `remark` says why."""

    solver: str
    packs: int | None
    bound: int
    seconds: float | None
    remark: str = ""


def measure(bench: Bench) -> Part:
    """All solvers on all histograms that are there."""
    solve(Histogram((3, 1, 4, 1, 5, 9, 2, 6)), 3)  # imports, which are no part of solving
    repeats = bench.sizes.repeats
    tables: list[Table] = []
    targets: list[Target] = []
    for name, file, sizes, seconds in (
        ("Wikipedia 512", WIKIPEDIA, (3, 4, 8, 12), 1.5),
        ("SQuAD 384", SQUAD, range(3, 9), 0.5),
    ):
        histogram = published_histogram(bench.data, file)
        what = f"{name}, K {', '.join(map(str, sizes))}: packs above the bound, at worst"
        if histogram is None:
            targets.append(not_measured(what, "at most 0", f"no {file}.json in the data folder"))
            continue
        answers = _solve_all(bench, [_Case(name, k, histogram) for k in sizes])
        worst = max(_gap(case, answers) for case in answers)
        targets.append(at_most(what, worst, 0, "packs"))
        targets.append(at_most(f"{name}: seconds, at worst", _slowest(answers), seconds, "s"))
        tables.append(_table(f"{name}: {histogram.sequences:,} sequences", repeats, answers))
    long_answers = _solve_all(bench, list(_long_cases(bench)))
    targets += _long_targets(long_answers)
    title = f"Log-normal lengths: {bench.sizes.log_normal_sequences:,} sequences"
    tables.append(_table(title, repeats, long_answers, _LONG_NOTE))
    random_table, random_targets = _random(bench.sizes.random_histograms)
    return Part("Solvers", (*targets, *random_targets), (*tables, random_table))


_LONG_NOTE = (
    "Lengths are `clip(int(lognormal(mu, sigma)), 1, L)` with (L, mu, sigma) = "
    f"{', '.join(str((longest, *shape)) for longest, shape in LOG_NORMAL.items())}, drawn in this order from one "
    f"`default_rng({LOG_NORMAL_SEED})`."
)


def _long_cases(bench: Bench) -> Iterator[_Case]:
    for histogram in log_normal_histograms(bench.sizes.log_normal_sequences):
        capacity = histogram.max_sequence_length
        if capacity in bench.sizes.log_normal_slots:
            for max_sequences in (_HARD[capacity], *_EASY):
                yield _Case(f"L {capacity}", max_sequences, histogram)


def _long_targets(answers: dict[_Case, list[_Answer]]) -> list[Target]:
    easy = {case: found for case, found in answers.items() if case.max_sequences in _EASY}
    hard = {case: found for case, found in answers.items() if case not in easy}
    # A gap of 2 packs is as good as one of 0.01 %.
    excess = max(_gap_percent(case, hard) if _gap(case, hard) > 2 else 0.0 for case in hard)
    easy_name = f"{', '.join(dict.fromkeys(case.name for case in easy))} with K 16 and 64"
    hard_name = ", ".join(f"{case.name} / K {case.max_sequences}" for case in hard)
    return [
        at_most(f"{easy_name}: gap, at worst", max(_gap_percent(case, easy) for case in easy), 0.003, "%"),
        at_most(f"{easy_name}: seconds, at worst", _slowest(easy), 1.0, "s"),
        at_most(f"{hard_name}: gap beyond 2 packs, at worst", excess, 0.01, "%"),
        at_most(f"{hard_name}: seconds, at worst", _slowest(hard), 30.0, "s"),
    ]


def _solve_all(bench: Bench, cases: list[_Case]) -> dict[_Case, list[_Answer]]:
    answers = {}
    for case in cases:
        say(f"  {case.name}, K {case.max_sequences}")
        answers[case] = [_solve(case, solver, bench) for solver in SOLVERS]
    return answers


def _solve(case: _Case, solver: str, bench: Bench) -> _Answer:
    if solver == "nnls" and not bench.sizes.with_nnls:
        return _Answer(solver, None, 0, None, "left out of a quick run")
    seconds = []
    try:
        for _ in range(bench.sizes.repeats if solver == "optimal" else 1):
            started = time.perf_counter()
            solution = solve(case.histogram, case.max_sequences, solver)
            seconds.append(time.perf_counter() - started)
    except UsageError:
        return _Answer(solver, None, 0, None, "refused: too many strategies for least squares")
    return _Answer(solver, solution.packs, solution.lower_bound, statistics.median(seconds))


def _table(title: str, repeats: int, answers: dict[_Case, list[_Answer]], *notes: str) -> Table:
    rows = [_row(case, answer, _bound(case, answers)) for case, found in answers.items() for answer in found]
    columns = ("lengths", "K", "solver", "packs", "lower bound", "gap", "gap %", "seconds", "published packs", "remark")
    kept = [i for i in range(len(columns)) if any(row[i] not in (None, "") for row in rows)]
    seconds = f"Seconds in a warm process, without imports; of `optimal`, the median of {repeats}."
    bound = "The lower bound is the best one that any solver proved."
    return Table(
        title,
        tuple(columns[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in rows),
        (f"{bound} {seconds}", *notes),
    )


def _row(case: _Case, answer: _Answer, bound: int) -> tuple[Cell, ...]:
    gap = None if answer.packs is None else answer.packs - bound
    return (
        case.name,
        case.max_sequences,
        answer.solver,
        answer.packs,
        bound,
        gap,
        None if gap is None else 100 * gap / bound,
        answer.seconds,
        PUBLISHED_PACKS.get((case.name, case.max_sequences, answer.solver)),
        answer.remark,
    )


def _bound(case: _Case, answers: dict[_Case, list[_Answer]]) -> int:
    return max(answer.bound for answer in answers[case])


def _optimal(case: _Case, answers: dict[_Case, list[_Answer]]) -> _Answer:
    return next(answer for answer in answers[case] if answer.solver == "optimal")


def _gap(case: _Case, answers: dict[_Case, list[_Answer]]) -> int:
    return (_optimal(case, answers).packs or 0) - _bound(case, answers)


def _gap_percent(case: _Case, answers: dict[_Case, list[_Answer]]) -> float:
    return 100 * _gap(case, answers) / _bound(case, answers)


def _slowest(answers: dict[_Case, list[_Answer]]) -> float:
    return max(_optimal(case, answers).seconds or 0.0 for case in answers)


def _random(count: int) -> tuple[Table, list[Target]]:
    say(f"  {count} random histograms")
    random = np.random.default_rng(_RANDOM_SEED)
    gaps, seconds = [], []
    for _ in range(count):
        histogram, max_sequences = random_histogram(random)
        started = time.perf_counter()
        gaps.append(solve(histogram, max_sequences).gap)
        seconds.append(time.perf_counter() - started)
    at_bound = 100 * Counter(gaps)[0] / count
    name = f"{count} random histograms, L 32..512, K 2..12"
    row = (count, _RANDOM_SEED, Counter(gaps)[0], max(gaps), 1000 * statistics.median(seconds), 1000 * max(seconds))
    table = Table(
        "Random histograms, solver `optimal`",
        ("histograms", "seed", "at the bound", "largest gap", "median ms", "slowest ms"),
        (row,),
    )
    return table, [
        at_most(f"{name}: packs above the bound, at worst", max(gaps), 1, "packs"),
        at_least(f"{name}: packed in the bound itself", at_bound, 99, "%"),
    ]
