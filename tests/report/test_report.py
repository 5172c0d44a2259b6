"""Every number that people are shown equals the recipe's, and no name can break what shows it."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from packing.ports import Table
from packing.recipe import recipe_to_json
from packing.report.figures import recipe_figures
from packing.report.html import SHOWN_ROWS, TITLES, report_page
from packing.report.markdown import description
from packing.report.record import lineage
from packing.report.tables import recipe_tables
from packing.report.words import certificate_words
from packing.solve import solve_histogram
from packing.solvers.check import check_certificate
from packing.types import Histogram, Parameters, Recipe
from tests.report.pages import Page
from tests.report.recipes import NASTY, dataset_recipe, histogram_recipes

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PAGE_TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "section", "div", "p", "figure", "img", "a"}
PAGE_TAGS |= {"table", "thead", "tbody", "tr", "th", "td"}
NO_FIGURES = {"length_histogram": PIXEL, "pack_composition": PIXEL, "padding": PIXEL}


def column(table: Table, name: str) -> list[Any]:
    return [row[table.columns.index(name)] for row in table.rows]


def page_of(recipe: Recipe, **figures: bytes) -> str:
    places = lineage(recipe, f"s3://raw/{NASTY}", "s3://packed/x", {"airflow.dag_run_url": "https://a/b?c=1&d=2"})
    return report_page(recipe, recipe_tables(recipe, ()), {**NO_FIGURES, **figures}, places)


@settings(max_examples=60)
@given(histogram_recipes())
def test_tables_add_up_to_the_recipes_json(recipe: Recipe) -> None:
    document = recipe_to_json(recipe)
    statistics, counts = document["statistics"], document["histogram"]["counts"]
    tables = recipe_tables(recipe, ())
    lengths, composition, padding = tables["length_buckets"], tables["pack_composition"], tables["padding"]

    assert sum(column(lengths, "sequences")) == sum(column(composition, "sequences")) == statistics["sequences"]
    assert sum(column(lengths, "tokens")) == statistics["tokens"]
    for shortest, longest, sequences in zip(*(column(lengths, n) for n in lengths.columns[:3]), strict=True):
        assert sequences == sum(counts[shortest - 1 : longest])
    for table in (composition, padding):
        assert sum(column(table, "packs")) == statistics["packs"]
        assert sum(column(table, "padding_tokens")) == statistics["padding_tokens"]
    for fewest, most, packs, tokens in zip(*(column(padding, n) for n in padding.columns[:4]), strict=True):
        assert fewest * packs <= tokens <= most * packs
    for table in (lengths, composition, padding):
        share = sum(column(table, table.columns[-1]))
        assert share == pytest.approx(1) or statistics["padding_tokens"] == 0

    stated = {" + ".join(map(str, entry["lengths"])): entry["count"] for entry in document["strategies"]}
    top = dict(zip(*(column(tables["top_strategies"], n) for n in ("lengths", "packs")), strict=True))
    assert top.items() <= stated.items()
    assert sorted(top.values()) == sorted(stated.values())[-20:]
    assert sum(column(tables["partitions"], "packs")) == statistics["packs"]


@settings(max_examples=30)
@given(histogram_recipes())
def test_the_pages_numbers_are_the_recipes_jsons(recipe: Recipe) -> None:
    document, page = recipe_to_json(recipe), Page(page_of(recipe))
    assert dict(page.tables["statistics"]) == {name: str(value) for name, value in document["statistics"].items()}
    assert dict(page.tables["parameters"]) == {name: str(value) for name, value in document["parameters"].items()}
    assert dict(page.tables["producer"]) == document["producer"]
    summary = dict(page.tables["summary"])
    for name in ("sequences", "packs"):
        assert summary[name].replace(",", "") == str(document["statistics"][name])
    assert summary["gap"].split()[0].replace(",", "") == str(document["statistics"]["gap"])
    for name, table in recipe_tables(recipe, ()).items():
        if not table.rows:
            assert name not in page.tables
            continue
        shown = page.tables[name]
        assert [text.replace(" ", "_") for text in shown[0]] == list(table.columns)
        for row, texts in zip(table.rows, shown[1:], strict=True):
            for value, text in zip(row, texts, strict=True):
                if isinstance(value, float):
                    assert float(text.rstrip("%")) == pytest.approx(100 * value, abs=5.01e-5)
                else:
                    assert (text.replace(",", "") if isinstance(value, int) else text) == str(value)


@settings(max_examples=60)
@given(histogram_recipes())
def test_the_certificates_words_are_a_proof(recipe: Recipe) -> None:
    """Whoever does the sum that the words state comes to the bound that the checker proves."""
    words = certificate_words(recipe).replace(",", "")
    worth, best, bound = map(int, re.findall(r"(\d+) / (\d+) rounded up is (\d+):", words)[0])
    k = recipe.parameters.max_sequences_per_pack
    assert -(-worth // best) == bound == check_certificate(recipe.histogram, k, recipe.certificate)
    assert f"This recipe has {recipe.statistics['packs']} packs" in words
    assert ("proven optimal" in words) == (recipe.statistics["packs"] == bound)


@settings(max_examples=30)
@given(histogram_recipes())
def test_the_descriptions_numbers_are_the_recipes_jsons(recipe: Recipe) -> None:
    statistics = recipe_to_json(recipe)["statistics"]
    text = description(recipe, recipe_tables(recipe, ())["top_strategies"], [])
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE))
    for name in ("sequences", "packs"):
        assert int(rows[name].replace(",", "")) == statistics[name]
    for name in ("lower bound", "gap"):
        assert int(rows[name].split()[0].replace(",", "")) == statistics[name.replace(" ", "_")]
    for name, value in vars(recipe.parameters).items():
        assert rows[name.replace("_", "\\_")] == str(value)
    for strategy in sorted(recipe.strategies, key=lambda strategy: -strategy.count)[:1]:
        assert f"{strategy.count:,} packs" in text


def test_a_page_needs_nothing_else_and_runs_nothing() -> None:
    recipe = dataset_recipe()
    figures = recipe_figures(recipe)
    text = page_of(recipe, **figures)
    page = Page(text)
    names = {name for name, _ in page.tags}
    assert names <= PAGE_TAGS
    for name, attributes in page.tags:
        assert set(attributes) <= {"lang", "charset", "name", "content", "class", "id", "scope", "alt", "src", "href"}
        assert not attributes.get("src") or attributes["src"].startswith("data:image/png;base64,")
        assert "href" not in attributes or name == "a"
    assert [found["href"] for name, found in page.tags if name == "a"] == ["https://a/b?c=1&d=2"]
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|@font-face|http", style)
    assert "prefers-color-scheme: dark" in style
    shown = [found["src"].partition(",")[2] for name, found in page.tags if name == "img"]
    assert [base64.b64decode(data) for data in shown] == list(figures.values())
    assert all(found["alt"] for name, found in page.tags if name == "img")
    assert f"s3://raw/{NASTY}" in dict(page.tables["lineage"]).values()
    uris = [row[0] for row in page.tables["raw_shards"][1:]]
    assert f"/raw/{NASTY.replace('/', '%')}" in uris
    assert [row[3] for row in page.tables["raw_shards"][1:]] == [shard.etag for shard in recipe.shards]
    assert len(page.tables["rejected"]) == len(recipe.rejected) + 1 > 1


def test_a_long_table_says_what_it_leaves_out() -> None:
    recipe = dataset_recipe()
    tables = recipe_tables(recipe, ())
    long = Table(("uri",), tuple((str(number),) for number in range(SHOWN_ROWS + 7)))
    page = Page(report_page(recipe, {**tables, "raw_shards": long}, NO_FIGURES, []))
    assert len(page.tables["raw_shards"]) == SHOWN_ROWS + 1
    assert "And 7 more: see recipe/tables/raw_shards.json." in page.texts
    assert set(TITLES) == set(tables)


def test_reused_partitions_are_told_from_written_ones() -> None:
    recipe = dataset_recipe()
    digests = [partition.digest for partition in recipe.partitions]
    assert len(digests) > 1
    table = recipe_tables(recipe, digests[1:])["partitions"]
    assert column(table, "packed_shards") == ["written", *["reused"] * (len(digests) - 1)]


def test_names_mean_nothing_in_markdown() -> None:
    places = [("raw shards", f"s3://{NASTY}\nmore"), ("DAG run", "https://a/b?c=1&d=2"), ("odd", "http://a/(b)|c")]
    recipe = dataset_recipe()
    text = description(recipe, recipe_tables(recipe, ())["top_strategies"], places)
    assert "<" not in text
    assert "[https://a/b?c=1&amp;d=2](https://a/b?c=1&d=2)" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| raw shards | s3"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert not re.search(r"(?<!\\)[`*_~\[\]]", row)
    assert len(text) < 8000


def test_a_description_of_many_sequences_and_long_places_is_cut_off_for_mlflow() -> None:
    counts = (50_000, 70_000, *[0] * 509, 1)
    parameters = Parameters(max_sequence_length=512, max_sequences_per_pack=200)
    recipe = solve_histogram(parameters, Histogram(counts), time_limit=5)
    top = recipe_tables(recipe, ())["top_strategies"]
    for places, cut in (([], False), ([("raw shards", f"s3://{'&' * 9000}")], True)):
        text = description(recipe, top, places)
        assert len(text) < 8000
        assert ("Cut off here" in text) == cut
        assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))
        assert f"{recipe.statistics['packs']:,}" in text


def test_figures_are_pictures_of_this_recipe() -> None:
    recipe = dataset_recipe()
    figures = recipe_figures(recipe)
    assert figures == recipe_figures(recipe)
    assert all(picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 5000 for picture in figures.values())
    assert len(set(figures.values())) == 3
    other = replace(recipe, histogram=Histogram(recipe.histogram.counts[::-1]))
    assert [name for name, picture in recipe_figures(other).items() if picture != figures[name]] == ["length_histogram"]
