"""What the packed shards are, line by line: as objects, pack by pack, sequence by sequence, and made again."""

from __future__ import annotations

from itertools import zip_longest

from packing.audit.evidence import Evidence, Findings
from packing.verify import check_every_sequence, packed_strategies


def check_objects(evidence: Evidence) -> Findings:
    """That the listed objects are there as listed, with no others beside them."""
    manifest = evidence.need_manifest()
    problems = [content.stored for content in evidence.packed if content.stored]
    strange = sorted(set(evidence.objects) - {shard.uri for shard in manifest.shards})
    problems += [
        f"{uri}: an object that the manifest does not list, in a folder of its packed shards" for uri in strange
    ]
    good = f"{len(evidence.packed)} objects with the sizes and SHA-256 that the manifest lists, and no others"
    return problems, good


def check_packs(evidence: Evidence) -> Findings:
    """Every pack by itself, and each partition's packs against its strategies."""
    manifest = evidence.need_manifest()
    problems = [problem for content in evidence.packed for problem in content.problems]
    problems += [
        f"{partition.digest}: its packed shards do not hold its strategies as often as the recipe states"
        for partition in (evidence.recipe.partitions if evidence.recipe else ())
        if packed_strategies(evidence.folders.get(partition.digest, ())) != partition.strategies
    ]
    good = f"{manifest.packs} packs: framing, checksums, features, masks, positions and strategies hold"
    return problems, good


def check_sequences(evidence: Evidence) -> Findings:
    """Every raw sequence exactly once, as verify does it."""
    rejected = evidence.recipe.rejected if evidence.recipe else ()
    check = check_every_sequence(evidence.need_manifest(), rejected, evidence.raw, evidence.packed)
    return () if check.passed else [check.detail], check.detail


def check_bytes(evidence: Evidence) -> Findings:
    """That plan and assembly, done again, give the packed shards' bytes."""
    recipe, manifest = evidence.need_recipe(), evidence.need_manifest()
    problems = []
    for partition in recipe.partitions:
        remade = evidence.remade.get(partition.digest)
        stored = tuple(
            (content.shard.bytes, content.shard.sha256) for content in evidence.folders.get(partition.digest, ())
        )
        if remade is None:
            problems.append(f"{partition.digest}: not made again, as the raw data does not give this partition")
        elif remade.problem:
            problems.append(f"{partition.digest}: cannot be made again: {remade.problem}")
        elif remade.shards != stored:
            problems.append(f"{partition.digest}: {_first_difference(remade.shards, stored)}")
    good = f"{len(manifest.shards)} packed shards made again from raw data and recipe have the SHA-256 of the manifest"
    return problems, good


def _first_difference(expected: tuple[tuple[int, str], ...], found: tuple[tuple[int, str], ...]) -> str:
    number, wanted, got = next(
        (number, *pair) for number, pair in enumerate(zip_longest(expected, found)) if pair[0] != pair[1]
    )
    return f"part {number}: expected {_object(wanted)} made again from raw data and recipe, found {_object(got)}"


def _object(shard: tuple[int, str] | None) -> str:
    return f"{shard[0]} bytes with SHA-256 {shard[1]}" if shard else "none"
