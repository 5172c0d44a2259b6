"""From a histogram to strategies with a proven lower bound: one entry for all solvers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from packing.errors import UsageError, VerificationError
from packing.solvers import lpfhp, nnls, optimal, spfhp
from packing.solvers.bounds import cheap_bound
from packing.solvers.check import check_certificate, check_strategies
from packing.types import SOLVERS, Histogram, Solution, Strategy, merge_strategies

_PUBLISHED: dict[str, Callable[[Histogram, int], list[Strategy]]] = {
    "nnls": nnls.pack,
    "spfhp": spfhp.pack,
    "lpfhp": lpfhp.pack,
}

_MOST_SEQUENCES = 2**53  # exact in floating point


def solve(
    histogram: Histogram, max_sequences_per_pack: int, solver: str = "optimal", time_limit: float | None = None
) -> Solution:
    """Pack every sequence of `histogram` into packs of its `max_sequence_length` tokens, K sequences at most.

    `time_limit` (seconds) ends the search of the solver `optimal` early, with the best answer so far. The published
    heuristics take milliseconds (`nnls` seconds), know no limit, and carry the strongest bound that needs no search.
    The answer is canonical and has been checked independently of the solver that made it.

    Raises UsageError for parameters that cannot work, VerificationError if the answer does not hold (a defect).
    """
    _refuse_unusable(histogram, max_sequences_per_pack, solver, time_limit)
    start = time.monotonic()
    if solver == "optimal":
        found = optimal.search(
            histogram, max_sequences_per_pack, math.inf if time_limit is None else start + time_limit
        )
        strategies, bound, iterations, complete = found.strategies, found.bound, found.iterations, found.complete
    else:
        strategies = _PUBLISHED[solver](histogram, max_sequences_per_pack)
        bound, iterations, complete = cheap_bound(histogram, max_sequences_per_pack), 0, True
    solution = Solution(
        strategies=merge_strategies(strategies),
        lower_bound=bound.packs,
        certificate=bound.certificate,
        bound_method=bound.method,
        iterations=iterations,
        seconds=time.monotonic() - start,
        complete=complete,
    )
    check_strategies(histogram, max_sequences_per_pack, solution.strategies)
    proven = check_certificate(histogram, max_sequences_per_pack, solution.certificate)
    if proven != solution.lower_bound or solution.gap < 0:
        raise VerificationError(
            f"solver {solver}: expected the certificate to prove {solution.lower_bound} packs, of {solution.packs} "
            f"used, found {proven}; report this with the histogram"
        )
    return solution


def check_time_limit(time_limit: float | None) -> None:
    """Raise UsageError for seconds that are no limit."""
    if time_limit is not None and not 0 < time_limit < math.inf:
        raise UsageError(f"time_limit: expected seconds above 0, got {time_limit!r}")


def _refuse_unusable(histogram: Histogram, max_sequences_per_pack: int, solver: str, time_limit: float | None) -> None:
    if isinstance(max_sequences_per_pack, bool) or not isinstance(max_sequences_per_pack, int):
        raise UsageError(f"max_sequences_per_pack: expected an integer, got {max_sequences_per_pack!r}")
    if max_sequences_per_pack < 1:
        raise UsageError(f"max_sequences_per_pack: expected at least 1, got {max_sequences_per_pack}")
    if solver not in SOLVERS:
        raise UsageError(f"solver: expected one of {', '.join(SOLVERS)}, got {solver!r}")
    check_time_limit(time_limit)
    if not 1 <= histogram.sequences <= _MOST_SEQUENCES:
        raise UsageError(f"histogram: expected 1 to 2^53 sequences, found {histogram.sequences}")
