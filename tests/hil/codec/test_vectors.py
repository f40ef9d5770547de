"""The wire format against committed vectors and a second writer and reader in plain Python.

vectors/README.md says what the files hold and how a vector is made anew.
"""

import hashlib
import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hil.codec import CodecTarget, decode, encode
from hil.contract import BaseSpec, LoraUpdate, LowRankFactors

Fields = list[list[str]]
FILES = sorted((Path(__file__).parent / "vectors").glob("*.json"))
if not FILES:
    raise FileNotFoundError(
        "no payload vectors beside this file; without them the wire format is untested"
    )
pytestmark = pytest.mark.parametrize(
    "case", [json.loads(path.read_text()) for path in FILES], ids=lambda c: c["name"]
)


def base_of(case: dict[str, Any]) -> BaseSpec:
    shapes = {name: (int(d_out), int(d_in)) for name, d_out, d_in in case["modules"]}
    return BaseSpec(identity=case["base_identity"], module_shapes=shapes)


def payload_of(case: dict[str, Any]) -> bytes:
    return bytes.fromhex("".join(digits for _, digits in case["payload"]))


def columns(matrix: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def integers_by_the_book(vector: list[float], bits: int) -> list[int]:
    peak = max(map(abs, vector))
    return [round(value / peak * (2 ** (bits - 1) - 1)) for value in vector]


def pack_by_the_book(integers: list[int], bits: int) -> bytes:
    number = sum((value % 2**bits) << (bits * i) for i, value in enumerate(integers))
    return number.to_bytes(math.ceil(bits * len(integers) / 8), "little")


def directions_by_the_book(
    case: dict[str, Any], module: str
) -> list[tuple[bytes, list[int], list[int]]]:
    """(scale, coefficients of b, coefficients of a) of each direction of one module."""
    bits, factors = case["coefficient_bits"], case["factors"][module]
    rows = []
    for b, a in zip(columns(factors["b"]), factors["a"], strict=True):
        limit = 2 ** (bits - 1) - 1
        scale = (max(map(abs, b)) / limit) * (max(map(abs, a)) / limit)
        rows.append(
            (struct.pack("<f", scale), integers_by_the_book(b, bits), integers_by_the_book(a, bits))
        )
    return rows


def payload_by_the_book(case: dict[str, Any]) -> Fields:
    """Every field of the payload with its bytes in hex, written from the description of the format
    alone."""
    bits, names, sent = (
        case["coefficient_bits"],
        [name for name, _, _ in case["modules"]],
        case["factors"],
    )
    states = [1 if name in sent else 2 if name in case["kept"] else 0 for name in names]
    fields = [
        ["module bitmap", pack_by_the_book([*states, *[0] * (-len(states) % 4)], 2).hex()],
        ["kept from", case["kept_from"] or ""],
        ["ranks", bytes(len(sent[name]["a"]) for name in names if name in sent).hex()],
    ]
    body: Fields = []
    for name in (name for name in names if name in sent):
        rows = [
            (s, pack_by_the_book(b, bits), pack_by_the_book(a, bits))
            for s, b, a in directions_by_the_book(case, name)
        ]
        for i, row in enumerate(rows):
            body += [
                [f"{name}, direction {i}, {what}", part.hex()]
                for what, part in zip(("scale", "b", "a"), row, strict=True)
            ]
        body.append(
            [
                f"{name}, CRC-32",
                struct.pack("<I", zlib.crc32(b"".join(b"".join(row) for row in rows))).hex(),
            ]
        )
    header_bytes = 52 + sum(len(digits) for _, digits in fields) // 2 + 4
    payload_bytes = header_bytes + sum(len(digits) for _, digits in body) // 2 + 32
    fields = [
        ["magic", b"HLRA".hex()],
        ["version", "01"],
        ["bits per coefficient", f"{bits:02x}"],
        ["number of modules", struct.pack("<H", len(names)).hex()],
        ["round id", struct.pack("<I", case["round_id"]).hex()],
        ["header bytes", struct.pack("<I", header_bytes).hex()],
        ["payload bytes", struct.pack("<I", payload_bytes).hex()],
        ["base identity", case["base_identity"]],
        *fields,
    ]
    header = bytes.fromhex("".join(digits for _, digits in fields))
    fields += [["header CRC-32", struct.pack("<I", zlib.crc32(header)).hex()], *body]
    everything = bytes.fromhex("".join(digits for _, digits in fields))
    return [*fields, ["SHA-256", hashlib.sha256(everything).hexdigest()]]


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def test_committed_payload_is_what_the_format_says(case: dict[str, Any]) -> None:
    assert case["payload"] == payload_by_the_book(case)


def test_encode_gives_the_committed_payload(case: dict[str, Any]) -> None:
    update = LoraUpdate(
        round_id=case["round_id"],
        base_identity=case["base_identity"],
        factors={
            module: LowRankFactors(a=np.array(f["a"], np.float32), b=np.array(f["b"], np.float32))
            for module, f in case["factors"].items()
        },
        kept=frozenset(case["kept"]),
        kept_from=case["kept_from"],
    )
    target = CodecTarget(coefficient_bits=case["coefficient_bits"])
    assert encode(update, target, base=base_of(case)).hex() == payload_of(case).hex()


def test_decode_gives_the_committed_update_bit_for_bit(case: dict[str, Any]) -> None:
    update = decode(payload_of(case), base_of(case))
    assert update.round_id == case["round_id"]
    assert update.base_identity == case["base_identity"]
    assert (update.kept, update.kept_from) == (frozenset(case["kept"]), case["kept_from"])
    found = {module: {"a": f.a.tolist(), "b": f.b.tolist()} for module, f in update.factors.items()}
    assert found == case["decoded"]


def test_committed_update_is_what_the_format_says(case: dict[str, Any]) -> None:
    for module in case["factors"]:
        expected = case["decoded"][module]
        for i, (scale_bytes, q_b, q_a) in enumerate(directions_by_the_book(case, module)):
            scale = struct.unpack("<f", scale_bytes)[0]
            ratio = math.sqrt(sum(q * q for q in q_a) / sum(q * q for q in q_b))
            assert expected["a"][i] == [float32(math.sqrt(scale / ratio) * q) for q in q_a]
            assert columns(expected["b"])[i] == [float32(math.sqrt(scale * ratio) * q) for q in q_b]
