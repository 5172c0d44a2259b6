"""What the documents claim, line by line: manifest, recipe, raw shards, and what follows from these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np

from packing.audit.evidence import Evidence, Findings, Key
from packing.errors import VerificationError
from packing.jsonio import digest
from packing.manifest import manifest_to_json
from packing.recipe import dataset_input_id, partition_input_id
from packing.solve import histogram_of
from packing.solvers.check import check_certificate, check_strategies
from packing.types import Histogram, Manifest, Partition, Recipe, segments_of
from packing.verify import raw_shard_problems, recipe_of_manifest_problems


def check_manifest(evidence: Evidence) -> Findings:
    """Its name, its content's digest, and its packed shards in the folders of the recipe's partitions."""
    manifest = evidence.manifest
    if manifest is None:
        return evidence.manifest_problems, ""
    problems = [
        *_manifest_name_problems(evidence, manifest),
        *(_folder_problems(evidence, evidence.recipe, manifest) if evidence.recipe else ()),
    ]
    known = " and its digest" if evidence.pointer and evidence.pointer[0] == manifest.recipe_id else ""
    good = f"{evidence.manifest_uri}: {len(manifest.shards)} packed shards; their folders, the totals{known} hold"
    return problems, good


def _manifest_name_problems(evidence: Evidence, manifest: Manifest) -> Iterator[str]:
    if not evidence.manifest_uri.endswith(f"/manifests/{manifest.recipe_id}.json"):
        yield f"{evidence.manifest_uri}: expected a name that ends with manifests/{manifest.recipe_id}.json"
    if evidence.pointer and evidence.pointer[0] == manifest.recipe_id:
        stated, found = evidence.pointer[1], digest(manifest_to_json(manifest))
        if stated != found:
            yield f"{evidence.manifest_uri}: expected SHA-256 {stated} of its content as in index/inputs, found {found}"


def _folder_problems(evidence: Evidence, recipe: Recipe, manifest: Manifest) -> Iterator[str]:
    """Packed shards not in the folders of the recipe's partitions, in order, with as much as they hold."""
    expected = []
    for partition in recipe.partitions:
        shards = [content.shard for content in evidence.folders.get(partition.digest, ())]
        expected += [f"shards/{partition.digest}/part-{number:05d}.tfrecord" for number in range(len(shards))]
        stated = partition.packs, partition.sequences
        found = sum(shard.packs for shard in shards), sum(shard.sequences for shard in shards)
        if stated != found:
            yield f"partition {partition.digest}: expected (packs, sequences) {stated}, found {found} in the manifest"
    names = ["/".join(shard.uri.rsplit("/", 3)[1:]) for shard in manifest.shards]
    if names != expected:
        strange = sorted(set(names) - set(expected))[:3] or "another order"
        yield f"shards: expected those of {len(recipe.partitions)} partitions, one after the other, found {strange}"


def check_recipe(evidence: Evidence) -> Findings:
    """That it is the manifest's, of its shape, and follows from itself (`packing.recipe_checks`)."""
    recipe = evidence.recipe
    if recipe is None:
        return evidence.recipe_problems, ""
    problems = [*evidence.recipe_problems]
    if evidence.manifest:
        problems += recipe_of_manifest_problems(recipe, evidence.manifest)
    made = ", ".join(f"{name} {value}" for name, value in recipe.producer.items())
    good = f"{recipe.recipe_id}: digests, partitions and statistics follow from one another; made by {made}, as it says"
    return problems, good


def check_raw_shards(evidence: Evidence) -> Findings:
    """That the raw shards that are there are those that the recipe lists."""
    recipe = evidence.need_recipe()
    listed = {shard.name: (shard.uri, shard.etag) for shard in recipe.shards}
    moved = sum(listed.get(raw.shard.name) != (raw.shard.uri, raw.shard.etag) for raw in evidence.raw)
    note = f" ({moved} of them stored anew since, with the same content)" if moved else ""
    good = f"{len(evidence.raw)} raw shards with the names, sizes and SHA-256 that the recipe lists{note}"
    return raw_shard_problems(recipe, evidence.raw), good + _words_of_later(evidence.later)


def _words_of_later(names: Sequence[str]) -> str:
    if not names:
        return ""
    first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"; {len(names)} more came after the refresh had listed them and are not in it: {first}"


def check_rejected(evidence: Evidence) -> Findings:
    """That the recipe lists as rejected just the records that cannot be packed with its parameters."""
    recipe = evidence.need_recipe()
    stated = {(one.shard, one.record, one.offset): one for one in recipe.rejected}
    limits = recipe.parameters.max_sequence_length, recipe.parameters.max_predictions_per_sequence
    derived = {(one.shard, one.record, one.offset): one for raw in evidence.raw for one in raw.left_out(*limits)}
    problems = [raw.problem for raw in evidence.raw if raw.problem]
    for shard, record, offset in sorted(stated.keys() | derived.keys()):
        where = f"{shard}: record {record} at offset {offset}"
        if (shard, record, offset) not in derived:
            problems.append(f"{where}: listed as rejected, but it is a good sequence, or no record")
        elif (shard, record, offset) not in stated:
            one = derived[shard, record, offset]
            problems.append(f"{where}: expected {one.expected}, found {one.found}; not listed as rejected")
    records = sum(len(raw.records) + len(raw.bad) for raw in evidence.raw)
    return problems, f"{len(derived)} of {records} records cannot be packed, and just these are listed"


def check_histogram(evidence: Evidence) -> Findings:
    """The lengths of the sequences, counted again."""
    recipe = evidence.need_recipe()
    derived = _derived_histogram(evidence, recipe)
    problems = [
        f"length {length}: expected {count} sequences as in the raw data, found {stated} in the recipe"
        for length, (count, stated) in enumerate(
            zip_longest(derived.counts, recipe.histogram.counts, fillvalue=0), start=1
        )
        if count != stated
    ]
    return problems, f"{derived.sequences} sequences with {derived.tokens} tokens, each length as often as stated"


def _derived_histogram(evidence: Evidence, recipe: Recipe) -> Histogram:
    """Of the raw sequences that the parameters allow, by the slow reader."""
    limits = recipe.parameters.max_sequence_length, recipe.parameters.max_predictions_per_sequence
    lengths = [raw.lengths[raw.packable(*limits)] for raw in evidence.raw]
    return Histogram.of_lengths(np.concatenate(lengths), recipe.parameters.max_sequence_length)


def check_partitions(evidence: Evidence) -> Findings:
    """Which raw shards and records are packed together, and the digests of each partition's input."""
    recipe = evidence.need_recipe()
    contents = {raw.shard.name: raw.sha256 for raw in evidence.raw}
    stated: dict[Key, Partition] = {(one.shards, one.records): one for one in recipe.partitions}
    problems = [*evidence.scan_problems]
    if (derived := dataset_input_id(recipe.parameters, contents)) != recipe.input_id:
        problems.append(f"input_id: expected {derived} from the raw data and the parameters, found {recipe.input_id}")
    for key, members in evidence.members.items():
        if key not in stated:
            problems.append(f"expected a partition of {_words(key)}, found none")
            continue
        own = {name: contents[name] for name in members.names}
        derived = partition_input_id(recipe.parameters, own, members.records)
        found = stated[key]
        if (found.input_id, found.sequences) != (derived, members.sequences):
            problems.append(
                f"{found.digest}: expected input_id {derived} and {members.sequences} sequences from {_words(key)}, "
                f"found {found.input_id} and {found.sequences}"
            )
    problems += [
        f"{partition.digest}: a partition of {_words(key)}, which the raw data does not give"
        for key, partition in stated.items()
        if key not in evidence.members
    ]
    return problems, f"{len(stated)} partitions, as the raw data and partition_bytes give them"


def _words(key: Key) -> str:
    names, records = key
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") + (f" records {list(records)}" if records else "")


def check_packing(evidence: Evidence) -> Findings:
    """That each partition's strategies hold its raw sequences exactly once, in packs that are allowed."""
    recipe = evidence.need_recipe()
    problems = []
    for partition in recipe.partitions:
        members = evidence.members.get((partition.shards, partition.records))
        if members is None:
            problems.append(f"{partition.digest}: not checked, as the raw data does not give this partition")
            continue
        histogram = histogram_of(segments_of(members.summaries), recipe.parameters.max_sequence_length)
        try:
            check_strategies(histogram, recipe.parameters.max_sequences_per_pack, partition.strategies)
        except VerificationError as exc:
            problems.append(f"{partition.digest}: {exc}")
    packs = sum(partition.packs for partition in recipe.partitions)
    limits = f"{recipe.parameters.max_sequences_per_pack} sequences and {recipe.parameters.max_sequence_length} tokens"
    return problems, f"{packs} packs of at most {limits} hold every sequence of each partition exactly once"


def check_bound(evidence: Evidence) -> Findings:
    """The lower bound, proven again for the histogram of the raw data."""
    recipe = evidence.need_recipe()
    statistics, method = recipe.statistics, recipe.statistics["lower_bound_method"]
    packs = sum(partition.packs for partition in recipe.partitions)
    histogram = _derived_histogram(evidence, recipe)
    try:
        proven = check_certificate(histogram, recipe.parameters.max_sequences_per_pack, recipe.certificate)
    except VerificationError as exc:
        return [str(exc)], ""
    stated = statistics["lower_bound"], statistics["packs"], statistics["gap"]
    problems = []
    if stated != (proven, packs, packs - proven) or packs < proven:
        problems.append(f"expected (lower_bound, packs, gap) {(proven, packs, packs - proven)}, found {stated}")
    good = f"at least {proven} packs, proven in integers from the certificate ({method}); {packs} are used"
    return problems, good
