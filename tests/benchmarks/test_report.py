"""The tables, and what stands in them where something could not be measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import partitions, solvers
from benchmarks.machine import machine_facts
from benchmarks.report import Part, Table, at_least, at_most, markdown, not_measured, write_report
from benchmarks.settings import QUICK, Bench
from packing.solvers import solve
from packing.types import Histogram

SIZES = replace(QUICK, log_normal_sequences=20_000, random_histograms=3)


@pytest.fixture
def part() -> Part:
    targets = (at_most("low", 3, 2.5, "s"), at_least("high", 51.23, 50, "x"), not_measured("far", "1 s", "no road"))
    table = Table("Things", ("what", "number"), (("a|b", 1234567), ("c", None), ("d", 0.00012345)), ("A note.",))
    return Part("A part", targets, (table,), seconds=1.5)


def test_targets_are_judged(part: Part) -> None:
    text = markdown({}, {"quick": False}, {"part": part})
    assert "| low | 3 s | at most 2.50 s | **no** |" in text
    assert "| high | 51.2x | at least 50x | yes |" in text
    assert "| far | not measured: no road | 1 s |  |" in text
    assert "mean nothing" not in text
    assert "mean nothing" in markdown({}, {"quick": True}, {"part": part})


def test_tables_are_markdown(part: Part) -> None:
    lines = markdown({}, {"quick": False}, {"part": part}).splitlines()
    start = lines.index("| what | number |")
    assert lines[start + 1 : start + 7] == [
        "| --- | ---: |",
        "| a\\|b | 1,234,567 |",
        "| c |  |",
        "| d | 0.000123 |",
        "",
        "A note.",
    ]


def test_the_report_is_written_with_numbers_for_programs(tmp_path: Path, part: Part) -> None:
    write_report(tmp_path, machine_facts(), {"quick": False}, {"part": part})
    document = json.loads((tmp_path / "results.json").read_text())
    assert [target["met"] for target in document["parts"]["part"]["targets"]] == [False, True, None]
    assert document["parts"]["part"]["tables"][0]["rows"][0] == ["a|b", 1234567]
    assert (tmp_path / "results.md").read_text().startswith("# Benchmarks")


def test_the_machine_is_described_and_not_named() -> None:
    facts = machine_facts()
    assert facts["packages"]["numpy"]
    text = json.dumps(facts)
    assert set(facts) == {"CPU", "cores", "memory", "system", "Python", "packages"}
    assert str(Path.home()) not in text


def test_without_published_histograms_the_report_says_so(tmp_path: Path) -> None:
    bench = Bench(SIZES, tmp_path / "nothing", tmp_path)
    found = [solvers.measure(bench), partitions.measure(bench)]
    missing = [target for part in found for target in part.targets if target.met is None]
    assert {target.figure for target in missing} == {
        f"not measured: no {name}.json in the data folder" for name in ("wikipedia_bert_512", "squad_1_1_bert_384")
    }
    assert len(missing) == 5
    assert [table.title.split(":")[0] for table in found[0].tables] == [
        "Log-normal lengths",
        "Random histograms, solver `optimal`",
    ]


def test_with_histograms_every_solver_has_its_row(tmp_path: Path) -> None:
    folder = tmp_path / "histograms"
    folder.mkdir()
    counts = [0] * 3 + np.random.default_rng(126).integers(0, 40, 37).tolist()
    for name in ("wikipedia_bert_512", "squad_1_1_bert_384"):
        (folder / f"{name}.json").write_text(json.dumps({"max_sequence_length": len(counts), "counts": counts}))
    sizes = replace(
        SIZES,
        with_nnls=True,
        partition_sequences=(50, 50_000),
        shuffled_sequences=None,
        smallest_shuffled_sequences=150,
    )
    bench = Bench(sizes, tmp_path, tmp_path)
    part = solvers.measure(bench)
    wikipedia = part.tables[0]
    assert [row[:3] for row in wikipedia.rows[:4]] == [
        ("Wikipedia 512", 3, solver) for solver in ("optimal", "nnls", "spfhp", "lpfhp")
    ]
    packs, bound = wikipedia.columns.index("packs"), wikipedia.columns.index("lower bound")
    proven = solve(Histogram(tuple(counts)), 3).lower_bound
    assert {row[bound] for row in wikipedia.rows[:4]} == {proven}
    assert proven > solve(Histogram(tuple(counts)), 3, "lpfhp").lower_bound
    assert all(row[packs] >= row[bound] for row in wikipedia.rows)
    price = partitions.measure(bench).tables[1]
    assert [row[:3] for row in price.rows] == [(50, 3, 150), (50_000, 1, sum(counts))]
    for row in price.rows:
        assert row[3] - row[4] == row[5] == round(row[6] / 100 * row[4])
    assert 0 < price.rows[0][6] < 50
