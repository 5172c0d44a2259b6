"""Fuzz the compiled scan and the compiled assembly of packs: `python -m benchmarks.fuzz_wire --seconds 600`.

Records, real ones if `--shard` names an uncompressed TFRecord file, are altered, framed with right CRCs, and laid
against a page that may not be touched, as is all memory that compiled code writes to. Every case ends in one of three
ways: the fast path takes the record and the protobuf path reads the same from it; it stops there; or this fails.
A case follows from its number and the seed. A crash of the process leaves its last case's number in `--log`.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import mmap
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.settings import say
from packing.assemble import assemble_packs, pack_sizes
from packing.crc32c import crc32c_address
from packing.errors import ExampleError, VerificationError
from packing.example import RawSequence, assemble_pack, encode_example, read_sequence
from packing.features import raw_features
from packing.sequences import ROW_TYPES, SequenceBuffer, Sequences
from packing.tfrecord import encode_record, read_records
from packing.types import Parameters
from packing.wire import take_records

PARAMETERS = Parameters()
NAMES = tuple(feature.name.encode() for feature in raw_features(1, 1))
BYTES = (0x00, 0x01, 0x02, 0x08, 0x0A, 0x12, 0x1A, 0x7F, 0x80, 0x81, 0xFF)

Random = np.random.Generator


class GuardedMemory:
    """Bytes between two pages that end the process when they are touched."""

    def __init__(self, pages: int) -> None:
        self._mapping = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE)
        everything = np.frombuffer(self._mapping, dtype=np.uint8)
        self._bytes = everything[mmap.PAGESIZE : -mmap.PAGESIZE]
        mprotect = ctypes.CDLL(None, use_errno=True).mprotect
        for page in (0, pages + 1):
            address = everything.ctypes.data + page * mmap.PAGESIZE
            if mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")

    def at_the_end(self, size: int) -> npt.NDArray[np.uint8]:
        return self._bytes[len(self._bytes) - size :]

    def at_the_start(self, size: int) -> npt.NDArray[np.uint8]:
        return self._bytes[:size]


def main() -> None:
    """Run cases until the time is over; exit in failure at the first that goes wrong."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--first", type=int, default=0, help="the number of the first case (default: 0)")
    options.add_argument("--shard", type=Path, help="an uncompressed TFRecord file of raw examples")
    options.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_wire.case")
    arguments = options.parse_args()
    faulthandler.enable()
    payloads = _synthetic_payloads() + (_real_payloads(arguments.shard) if arguments.shard else [])
    outcomes: Counter[str] = Counter()
    fuzzer, case, end = Fuzzer(payloads), arguments.first, time.monotonic() + arguments.seconds
    with arguments.log.open("wb") as log:
        while time.monotonic() < end:
            os.pwrite(log.fileno(), f"{case:20d} seed {arguments.seed}\n".encode(), 0)
            outcomes.update(fuzzer.run(np.random.default_rng((arguments.seed, case))))
            case += 1
    say(f"{case - arguments.first} cases from {len(payloads)} records, nothing found: {dict(sorted(outcomes.items()))}")
    if not outcomes["altered, taken"] or not outcomes["altered, left though good"] or not outcomes["packed"]:
        raise SystemExit("too few cases to mean anything")


def _real_payloads(shard: Path) -> list[bytes]:
    return [payload for _, payload in read_records(shard.read_bytes(), str(shard))][:2000]


def _synthetic_payloads() -> list[bytes]:
    """Valid examples of few to many slots, with ids of any size."""
    random = np.random.default_rng(0)
    payloads = []
    for number in range(200):
        slots, predictions = int(random.integers(1, 700)), int(random.integers(1, 100))
        length, masked = int(random.integers(1, slots + 1)), int(random.integers(0, predictions + 1))
        largest = (2, 1000, 30_000, 2**63 - 1)[number % 4]
        values = {
            "input_ids": random.integers(0, largest, slots) * (np.arange(slots) < length),
            "input_mask": (np.arange(slots) < length).astype(np.int64),
            "segment_ids": random.integers(0, 2, slots),
            "masked_lm_positions": random.integers(0, length, predictions) * (np.arange(predictions) < masked),
            "masked_lm_ids": random.integers(0, largest, predictions) * (np.arange(predictions) < masked),
            "masked_lm_weights": (np.arange(predictions) < masked).astype(np.float32),
            "next_sentence_labels": random.integers(0, 2, 1),
        }
        if number % 3 == 0:
            values["extra"] = random.integers(0, 300, 5)
        payloads.append(encode_example(values))
    return payloads


class Fuzzer:
    """Guarded memory for the input, the content, the rows and the packs of one case at a time."""

    def __init__(self, payloads: list[bytes]) -> None:
        self.payloads = payloads
        self.window, self.content, self.out = (GuardedMemory(64) for _ in range(3))
        self.rows = {name: GuardedMemory(1) for name in ROW_TYPES}

    def run(self, random: Random) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        payloads = [self.payloads[i] for i in random.integers(0, len(self.payloads), 3)]
        payloads[1] = _altered(payloads[1], payloads[2], random)
        data = b"".join(encode_record(payload) for payload in payloads)
        if random.random() < 0.2:
            data = _altered(data, data, random)
            payloads = []
        found = self._take(data, random)
        outcomes["frames altered"] += not payloads
        for number, payload in enumerate(payloads[: len(found) + 1]):
            outcomes[self._compare(payload, number, found)] += 1
        outcomes[self._pack(found, random)] += 1
        return outcomes

    def _take(self, data: bytes, random: Random) -> Sequences:
        """What is found in `data`, with as much room for content as it may need at most, or less."""
        lay = self.window.at_the_end if random.random() < 0.7 else self.window.at_the_start
        window = lay(len(data))
        window[:] = np.frombuffer(data, np.uint8)
        window = window.view()
        window.flags.writeable = False
        room = len(data) if random.random() < 0.8 else int(random.integers(len(data) + 1))
        content = self.content.at_the_end(room)
        rows = {
            name: self.rows[name].at_the_end(3 * np.dtype(kind).itemsize).view(kind) for name, kind in ROW_TYPES.items()
        }
        position, count, used, missing = take_records(
            window, 0, len(window), 0, crc32c_address(), content, tuple(rows.values()), 0, 0
        )
        if missing:
            return self._take(data, random)
        found = Sequences(content[:used].copy(), **{name: array[:count].copy() for name, array in rows.items()})
        buffer = SequenceBuffer(1, 1)
        again = buffer.take(window, 0, len(window), 0)
        same = all(
            np.array_equal(getattr(found, name), getattr(buffer.sequences(), name)) for name in ("content", *ROW_TYPES)
        )
        if again != position or not same:
            raise AssertionError(f"a buffer that grows finds something else in {data.hex()}")
        return found

    def _compare(self, payload: bytes, number: int, found: Sequences) -> str:
        kind = "altered" if number == 1 else "as it was"
        try:
            expected = read_sequence(payload)
        except ExampleError as exc:
            if number < len(found):
                raise AssertionError(f"taken, but bad: {payload.hex()}") from exc
            return f"{kind}, left and bad"
        if number == len(found):
            if payload in self.payloads:
                raise AssertionError(f"left: {payload.hex()}")
            return f"{kind}, left though good"
        if not _same_sequence(found.sequence(number), expected):
            raise AssertionError(f"not the same: {payload.hex()}")
        return f"{kind}, taken"

    def _pack(self, found: Sequences, random: Random) -> str:
        """Pack the sequences, now and then with rows that say something wrong."""
        if not len(found):
            return "nothing to pack"
        wrong = random.random() < 0.3
        if wrong:
            rows = getattr(found, tuple(ROW_TYPES)[int(random.integers(len(ROW_TYPES)))])
            rows[random.integers(len(rows))] = random.integers(0, 200) if random.random() < 0.5 else 127
        content = self.content.at_the_end(len(found.content))
        content[:] = found.content
        guarded = Sequences(content, **{name: getattr(found, name) for name in ROW_TYPES})
        packs = random.integers(-1, len(found), (2, 3)).astype(np.int32)
        try:
            size = int(pack_sizes(guarded, packs, PARAMETERS).sum())
        except VerificationError:
            return "packs refused"
        if size > 64 * mmap.PAGESIZE:
            return "packs too large"
        packed = assemble_packs(guarded, packs, PARAMETERS, self.out.at_the_end(size)).tobytes()
        if wrong:
            return "packed from wrong rows"
        if packed != b"".join(_packed_slowly([found.sequence(i) for i in pack if i >= 0]) for pack in packs):
            raise AssertionError(f"packs {packs.tolist()} of {found.content.tobytes().hex()} are not the same")
        return "packed"


def _packed_slowly(sequences: list[RawSequence]) -> bytes:
    pack = assemble_pack(
        sequences,
        max_sequence_length=PARAMETERS.max_sequence_length,
        max_sequences_per_pack=PARAMETERS.max_sequences_per_pack,
        max_predictions_per_sequence=PARAMETERS.max_predictions_per_sequence,
    )
    return encode_record(encode_example(pack))


def _same_sequence(one: RawSequence, other: RawSequence) -> bool:
    names = ("tokens", "segments", "masked_positions", "masked_ids")
    return one.label == other.label and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def _altered(data: bytes, other: bytes, random: Random) -> bytes:
    """`data` with one to three changes, most of them where the structure is: around names and their sizes."""
    content = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        if not content:
            break
        at = _place(content, random)
        match int(random.integers(7)):
            case 0:
                content[at] ^= 1 << int(random.integers(8))
            case 1:
                content[at] = BYTES[random.integers(len(BYTES))]
            case 2:
                content[at] = (content[at] + int(random.choice((-2, -1, 1, 2)))) % 256
            case 3:
                content[at:at] = bytes(random.choice(BYTES, int(random.integers(1, 5))).tolist())
            case 4:
                del content[at : at + int(random.integers(1, 5))]
            case 5:
                start = _place(bytearray(other), random)
                piece = other[start : start + int(random.integers(1, 600))]
                content[at : at + len(piece)] = piece
            case _:
                del content[at:]
    return bytes(content)


def _place(data: bytearray, random: Random) -> int:
    name = data.find(NAMES[random.integers(len(NAMES))])
    if name < 0 or random.random() < 0.4:
        return int(random.integers(len(data)))
    return int(min(max(name + random.integers(-8, 40), 0), len(data) - 1))


if __name__ == "__main__":
    main()
