"""What a manifest says of packed shards, for raw ones: examples, bytes and digest, found by reading each shard once.

The answer is kept beside the copies, by the identity of the raw shard (URI, size, ETag), whatever is evicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from packing.adapters.local import LocalStorage
from packing.documents import read_cached, write_cached
from packing.errors import ExampleError, InputError
from packing.example import decode_example
from packing.features import Feature, raw_features
from packing.jsonio import digest
from packing.ports import Storage
from packing.types import RawShard
from training.background import in_parallel
from training.records import Records, Shard
from training.shards import PARALLEL_FETCHES, Cache

_MEASURED_TOGETHER = 4096


def index_raw_shards(storage: Storage, cache: Cache, raw: Sequence[RawShard], *, lengths: bool) -> Iterator[Shard]:
    """The raw shards, counted, and with their sequences' lengths if wanted; PARALLEL_FETCHES are open at a time.

    Raises RecordError at the first damaged record.
    """

    def count(shard: RawShard) -> tuple[Shard, Records | None]:
        with cache.locked(f"index-{_key(shard)[:2]}"):
            known = read_cached(LocalStorage(), _uri(cache, shard), lambda document: _from_json(document, shard))
            if known:
                return known, None
            counted, records = cache.add(storage, shard, _key(shard))
            _keep(cache, counted, shard)
            return counted, records

    for start in range(0, len(raw), PARALLEL_FETCHES):
        group = raw[start : start + PARALLEL_FETCHES]
        for listed, (shard, records) in zip(group, in_parallel(count, group, PARALLEL_FETCHES), strict=True):
            if not lengths or shard.lengths is not None:
                yield shard
                continue
            found = _lengths_of(cache.open(storage, [shard])[0] if records is None else records, shard.uri)
            measured = replace(shard, lengths=found)
            _keep(cache, measured, listed)
            yield measured


def raw_features_of(record: bytes, uri: str) -> tuple[Feature, ...]:
    """The raw schema with the lengths L and P that the first record has; all others must agree."""
    try:
        found = decode_example(record)
        slots, predictions = len(found["input_ids"]), len(found["masked_lm_ids"])
    except ExampleError as exc:
        raise InputError(f"{uri}: first record: expected {exc.expected}, found {exc.found}") from exc
    except KeyError as exc:
        raise InputError(f"{uri}: first record: expected the feature {exc}, found {sorted(found)}") from exc
    if not (slots and predictions):
        raise InputError(
            f"{uri}: first record: expected slots, found input_ids[{slots}] and masked_lm_ids[{predictions}]"
        )
    return raw_features(slots, predictions)


def _lengths_of(records: Records, uri: str) -> npt.NDArray[np.int32]:
    """The sums of the raw sequences' `input_mask`; raises InputError for a mask that is not 1s, then 0s."""
    lengths = [np.empty(0, np.int32)]
    for start in range(0, len(records), _MEASURED_TOGETHER):
        batch = [records[number] for number in range(start, min(start + _MEASURED_TOGETHER, len(records)))]
        mask = _masks(batch, uri)
        lengths.append(mask.sum(axis=1).astype(np.int32))
        wrong = (mask != (np.arange(mask.shape[1]) < lengths[-1][:, None])).any(axis=1) | (lengths[-1] == 0)
        if wrong.any():
            raise InputError(
                f"{uri}: record {start + int(wrong.argmax())}: expected an input_mask of one or more 1s, then 0s, "
                f"found {mask[wrong.argmax()].tolist()}; repair or remove the shard"
            )
    return np.concatenate(lengths)


def _masks(batch: list[bytes], uri: str) -> npt.NDArray[np.int64]:
    slots = raw_features_of(batch[0], uri)[0].length
    try:
        parsed = tf.io.parse_example(batch, {"input_mask": tf.io.FixedLenFeature([slots], tf.int64)})
    except tf.errors.InvalidArgumentError as exc:
        raise InputError(f"{uri}: {exc.message}") from exc
    mask: npt.NDArray[np.int64] = parsed["input_mask"].numpy()
    return mask


def _key(raw: RawShard) -> str:
    return digest([raw.uri, raw.size, raw.etag])


def _uri(cache: Cache, raw: RawShard) -> str:
    return str(cache.folder / f"{_key(raw)}.json")


def _keep(cache: Cache, shard: Shard, raw: RawShard) -> None:
    lengths = None if shard.lengths is None else shard.lengths.tolist()
    document = {"bytes": shard.bytes, "examples": shard.examples, "sha256": shard.sha256, "lengths": lengths}
    write_cached(LocalStorage(), _uri(cache, raw), document)


def _from_json(document: Mapping[str, Any], raw: RawShard) -> Shard:
    lengths = document["lengths"]
    return Shard(
        raw.uri,
        document["bytes"],
        document["examples"],
        document["sha256"],
        raw,
        None if lengths is None else np.array(lengths, np.int32),
    )
