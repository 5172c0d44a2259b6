"""Reading raw and assembling packed serialized `tf.train.Example`, through protobuf objects and without TensorFlow.

The message classes are built from the published schema (`tensorflow/core/example/{example,feature}.proto`) in a
descriptor pool of their own, since importing TensorFlow costs 9 CPU-seconds and TensorFlow registers the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from packing.errors import ExampleError
from packing.features import Feature, packed_features

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class RawSequence:
    """One raw pretraining example without its padding: n tokens, m of them masked.

    `tokens`, `segments` int64[n]; `masked_positions` (in 0..n-1), `masked_ids` int64[m]; `label` 0 or 1.
    """

    tokens: Array
    segments: Array
    masked_positions: Array
    masked_ids: Array
    label: int


def decode_example(payload: bytes) -> dict[str, Array]:
    """All numeric features of a serialized example, as int64 or float32 arrays; raises ExampleError."""
    try:
        example = _Example.FromString(payload)
    except DecodeError as exc:
        raise ExampleError("a serialized tf.train.Example", f"{len(payload)} bytes that are none ({exc})") from exc
    features = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "int64_list":
            features[name] = np.array(feature.int64_list.value, dtype=np.int64)
        elif kind == "float_list":
            features[name] = np.array(feature.float_list.value, dtype=np.float32)
    return features


def encode_example(features: Mapping[str, Array]) -> bytes:
    """Serialize integer arrays as int64 lists and floating ones as float lists, deterministically (keys sorted)."""
    example = _Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        if np.issubdtype(values.dtype, np.floating):
            feature.float_list.value.extend(values.tolist())
        else:
            feature.int64_list.value.extend(values.tolist())
    return bytes(example.SerializeToString(deterministic=True))


def read_sequence(payload: bytes) -> RawSequence:
    """Decode and validate one raw example of any slot counts; features beyond the seven are ignored.

    Raises ExampleError for a missing or mistyped feature, unequal slot counts, a mask with holes, masked weights other
    than 0.0 and 1.0, ids < 0, masked positions outside the sequence, segments or labels other than 0 and 1.
    """
    features = decode_example(payload)
    ids, mask, segments = (_feature(features, name, np.int64) for name in ("input_ids", "input_mask", "segment_ids"))
    _expect_equal_lengths(input_ids=ids, input_mask=mask, segment_ids=segments)
    length = int(np.count_nonzero(mask))
    if length == 0 or not (mask[:length] == 1).all():
        raise ExampleError("input_mask of one or more 1s, then 0s", _shorten(mask))
    labels = _feature(features, "next_sentence_labels", np.int64)
    if labels.size != 1:
        raise ExampleError("one next_sentence_labels value", _shorten(labels))
    positions, masked_ids = _masked_tokens(features)
    sequence = RawSequence(ids[:length], segments[:length], positions, masked_ids, int(labels[0]))
    _check_content(sequence)
    return sequence


def _masked_tokens(features: Mapping[str, Array]) -> tuple[Array, Array]:
    positions = _feature(features, "masked_lm_positions", np.int64)
    ids = _feature(features, "masked_lm_ids", np.int64)
    weights = _feature(features, "masked_lm_weights", np.float32)
    _expect_equal_lengths(masked_lm_positions=positions, masked_lm_ids=ids, masked_lm_weights=weights)
    if not ((weights == 0.0) | (weights == 1.0)).all():
        raise ExampleError("masked_lm_weights of 0.0 and 1.0", _shorten(weights))
    real = weights == 1.0
    return positions[real], ids[real]


def _check_content(sequence: RawSequence) -> None:
    """What holds for every sequence, raw or packed."""
    length = len(sequence.tokens)
    limits = (
        ("input_ids", sequence.tokens, None),
        ("segment_ids", sequence.segments, 1),
        ("masked_lm_positions", sequence.masked_positions, length - 1),
        ("masked_lm_ids", sequence.masked_ids, None),
        ("next_sentence_labels", np.array([sequence.label]), 1),
    )
    for name, values, highest in limits:
        outside = (values < 0) if highest is None else (values < 0) | (values > highest)
        if outside.any():
            allowed = ">= 0" if highest is None else f"in 0..{highest}"
            raise ExampleError(f"{name} {allowed}", f"{values[outside][0]} at entry {int(outside.argmax())}")


def _feature(features: Mapping[str, Array], name: str, dtype: type[np.generic]) -> Array:
    if name not in features:
        raise ExampleError(f"feature {name}", f"features {sorted(features) or 'none'}")
    values = features[name]
    if values.dtype != dtype:
        raise ExampleError(f"feature {name} of type {np.dtype(dtype)}", str(values.dtype))
    return values


def _expect_equal_lengths(**arrays: Array) -> None:
    if len({len(values) for values in arrays.values()}) > 1:
        sizes = ", ".join(f"{name}[{len(values)}]" for name, values in arrays.items())
        raise ExampleError(f"equally long {', '.join(arrays)}", sizes)


def _shorten(values: Array) -> str:
    return np.array2string(values, threshold=12, edgeitems=6, max_line_width=200)


def assemble_pack(
    sequences: Sequence[RawSequence],
    *,
    max_sequence_length: int,
    max_sequences_per_pack: int,
    max_predictions_per_sequence: int,
) -> dict[str, Array]:
    """The features of one pack (DESIGN: packed features), for 1..K sequences that fit."""
    schema = packed_features(max_sequence_length, max_predictions_per_sequence, max_sequences_per_pack)
    lengths = np.array([len(s.tokens) for s in sequences])
    offsets = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)
    numbers = np.arange(1, len(sequences) + 1)
    masked = np.array([len(s.masked_positions) for s in sequences])
    content = {
        "input_ids": np.concatenate([s.tokens for s in sequences]),
        "input_mask": np.repeat(numbers, lengths),
        "segment_ids": np.concatenate([s.segments for s in sequences]),
        "positions": np.concatenate([np.arange(length) for length in lengths]),
        "masked_lm_positions": np.concatenate([s.masked_positions for s in sequences]) + np.repeat(offsets, masked),
        "masked_lm_ids": np.concatenate([s.masked_ids for s in sequences]),
        "masked_lm_weights": np.repeat(numbers, masked),
        "next_sentence_positions": offsets,
        "next_sentence_labels": np.array([s.label for s in sequences]),
        "next_sentence_weights": np.ones(len(sequences)),
    }
    return {feature.name: _pad(content[feature.name], feature) for feature in schema}


def _pad(values: Array, feature: Feature) -> Array:
    if len(values) > feature.length:
        raise ExampleError(f"at most {feature.length} values of {feature.name}", str(len(values)))
    padded = np.zeros(feature.length, dtype=feature.dtype)
    padded[: len(values)] = values
    return padded


def read_pack(
    payload: bytes, *, max_sequence_length: int, max_sequences_per_pack: int, max_predictions_per_sequence: int
) -> list[RawSequence]:
    """The sequences of one packed example: the reverse of `assemble_pack`.

    Raises ExampleError unless assembling them again gives exactly the same features, so whatever `assemble_pack`
    promises holds for the pack.
    """
    features = decode_example(payload)
    schema = packed_features(max_sequence_length, max_predictions_per_sequence, max_sequences_per_pack)
    for feature in schema:
        values = _feature(features, feature.name, np.dtype(feature.dtype).type)
        if len(values) != feature.length:
            raise ExampleError(f"{feature.name}[{feature.length}]", f"{feature.name}[{len(values)}]")
    if extra := features.keys() - {feature.name for feature in schema}:
        raise ExampleError("the ten packed features", f"also {', '.join(sorted(extra))}")
    count = np.count_nonzero(features["next_sentence_weights"] == 1.0)
    sequences = [_take_sequence(features, number) for number in range(1, count + 1)]
    if not sequences or not all(len(sequence.tokens) for sequence in sequences):
        raise ExampleError("one or more sequences, none of them empty", _shorten(features["input_mask"]))
    assembled = assemble_pack(
        sequences,
        max_sequence_length=max_sequence_length,
        max_sequences_per_pack=max_sequences_per_pack,
        max_predictions_per_sequence=max_predictions_per_sequence,
    )
    for feature in schema:
        expected, found = assembled[feature.name], features[feature.name]
        if not np.array_equal(expected, found):
            at = int(np.argmax(expected != found))
            raise ExampleError(f"{feature.name}[{at}] = {expected[at]}", str(found[at]))
    for sequence in sequences:
        _check_content(sequence)
    return sequences


def _take_sequence(features: Mapping[str, Array], number: int) -> RawSequence:
    """Sequence `number` (from 1) of a pack, wherever its tokens and masked tokens are."""
    own = features["input_mask"] == number
    masked = features["masked_lm_weights"] == number
    offset = features["next_sentence_positions"][number - 1]
    return RawSequence(
        tokens=features["input_ids"][own],
        segments=features["segment_ids"][own],
        masked_positions=features["masked_lm_positions"][masked] - offset,
        masked_ids=features["masked_lm_ids"][masked],
        label=int(features["next_sentence_labels"][number - 1]),
    )


def _example_class() -> Any:
    kinds = {"BytesList": "TYPE_BYTES", "FloatList": "TYPE_FLOAT", "Int64List": "TYPE_INT64"}
    file = descriptor_pb2.FileDescriptorProto(name="stowage/example.proto", package="tensorflow", syntax="proto3")
    for name, kind in kinds.items():
        _add_field(file.message_type.add(name=name), "value", 1, kind, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (field, message) in enumerate(
        (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
    ):
        _add_field(feature, field, number, message, oneof=True)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, "TYPE_STRING")
    _add_field(entry, "value", 2, "Feature")
    _add_field(features, "feature", 1, "Features.FeatureEntry", repeated=True)
    _add_field(file.message_type.add(name="Example"), "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def _add_field(
    message: descriptor_pb2.DescriptorProto,
    name: str,
    number: int,
    kind: str,
    *,
    repeated: bool = False,
    oneof: bool = False,
) -> None:
    label = "LABEL_REPEATED" if repeated else "LABEL_OPTIONAL"
    field = message.field.add(name=name, number=number, label=label)
    if kind.startswith("TYPE_"):
        field.type = descriptor_pb2.FieldDescriptorProto.Type.Value(kind)
    else:
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".tensorflow.{kind}"
    if oneof:
        field.oneof_index = 0


_Example = _example_class()
