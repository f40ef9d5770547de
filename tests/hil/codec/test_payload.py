import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.codec import (
    BITS_PER_MODULE,
    CodecTarget,
    bits_per_direction,
    decode,
    digest,
    encode,
    kept_bits,
    overhead_bits,
)
from hil.codec.layout import module_spans, parse_header
from hil.contract import KEEP, BaseSpec, CodecError, LoraUpdate, LowRankFactors, RankPlan

MakeUpdate = Callable[..., LoraUpdate]
ROOT = Path(__file__).parents[3]
BITS8, BITS4 = CodecTarget(coefficient_bits=8), CodecTarget(coefficient_bits=4)
Q0, K0, GATE0, DOWN0, Q1 = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.k_proj",
    "model.layers.0.mlp.gate_proj",
    "model.layers.0.mlp.down_proj",
    "model.layers.1.self_attn.q_proj",
)
plans = st.fixed_dictionaries(
    {module: st.sampled_from([0, 1, 2, 7, KEEP]) for module in (Q0, K0, GATE0, DOWN0, Q1)}
)
targets = st.sampled_from([BITS8, BITS4])
seeded = settings(derandomize=True, deadline=None, max_examples=100)


def update_of(plan: dict[str, int | str], make_update: MakeUpdate, **options: int) -> LoraUpdate:
    ranks = {module: rank for module, rank in plan.items() if isinstance(rank, int) and rank > 0}
    return make_update(
        ranks, kept=frozenset(m for m, rank in plan.items() if rank == KEEP), **options
    )


def assert_equal(one: LoraUpdate, other: LoraUpdate) -> None:
    assert replace(one, factors={}) == replace(other, factors={})
    assert list(one.factors) == list(other.factors)
    for module, factors in one.factors.items():
        np.testing.assert_array_equal(factors.a, other.factors[module].a)
        np.testing.assert_array_equal(factors.b, other.factors[module].b)


def resealed(payload: bytes | bytearray, base: BaseSpec, original: bytes) -> bytes:
    """The payload with every CRC-32 and its SHA-256 made anew, in the places where `original` has
    them."""
    sealed, header = bytearray(payload), parse_header(memoryview(original), base)
    header_bytes = struct.unpack_from("<I", original, 12)[0]
    for start, end in [(0, header_bytes), *module_spans(header, base).values()]:
        sealed[end - 4 : end] = struct.pack("<I", zlib.crc32(sealed[start : end - 4]))
    sealed[-32:] = sha256(sealed[:-32]).digest()
    return bytes(sealed)


@pytest.mark.slow
@seeded
@given(plan=plans, target=targets, round_id=st.integers(0, 2**32 - 1), seed=st.integers(0, 99))
def test_decoding_gives_back_all_but_the_coefficients_last_bits(
    plan: dict[str, int | str],
    target: CodecTarget,
    round_id: int,
    seed: int,
    base: BaseSpec,
    make_update: MakeUpdate,
) -> None:
    update = update_of(plan, make_update, round_id=round_id, seed=seed)
    decoded = decode(encode(update, target, base=base, plan=RankPlan(ranks=plan)), base)
    assert replace(decoded, factors={}) == replace(update, factors={})
    assert set(decoded.factors) == set(update.factors)
    worst = {8: 0.02, 4: 0.30}[target.coefficient_bits]
    for module, factors in update.factors.items():
        found = decoded.factors[module]
        for i in range(factors.rank):
            term, found_term = (
                np.outer(factors.b[:, i], factors.a[i]),
                np.outer(found.b[:, i], found.a[i]),
            )
            assert np.linalg.norm(found_term - term) <= worst * np.linalg.norm(term)


@seeded
@given(plan=plans, target=targets)
def test_payload_is_exactly_as_long_as_its_prices_say(
    plan: dict[str, int | str], target: CodecTarget, base: BaseSpec, make_update: MakeUpdate
) -> None:
    payload = encode(update_of(plan, make_update), target, base=base)
    prices = bits_per_direction(base, target)
    bits = overhead_bits(base, target) + kept_bits(list(plan.values()).count(KEEP))
    bits += sum(
        BITS_PER_MODULE + r * prices[m] for m, r in plan.items() if isinstance(r, int) and r > 0
    )
    assert bits == 8 * len(payload)


@pytest.mark.parametrize(("n_modules", "bitmap_bytes"), [(0, 0), (1, 1), (4, 1), (5, 2), (224, 56)])
def test_overhead_grows_with_the_bitmap_alone(n_modules: int, bitmap_bytes: int) -> None:
    base = BaseSpec(identity="a" * 64, module_shapes={f"m{i}": (2, 2) for i in range(n_modules)})
    empty = LoraUpdate(round_id=0, base_identity=base.identity, factors={})
    assert overhead_bits(base, BITS8) == 8 * (52 + bitmap_bytes + 4 + 32)
    assert 8 * len(encode(empty, BITS8, base=base)) == overhead_bits(base, BITS8)


def test_equal_updates_give_equal_payloads_whatever_order_they_name_modules_in(
    base: BaseSpec, make_update: MakeUpdate
) -> None:
    update = make_update({Q0: 2, GATE0: 3, Q1: 1})
    turned = replace(update, factors=dict(reversed(update.factors.items())))
    assert encode(turned, BITS8, base=base) == encode(update, BITS8, base=base)


@pytest.mark.slow
@seeded
@given(data=st.data(), target=targets)
def test_any_mutation_is_refused_or_harmless(
    data: st.DataObject, target: CodecTarget, base: BaseSpec, make_update: MakeUpdate
) -> None:
    payload = encode(make_update({Q0: 2, GATE0: 1}, kept=frozenset({K0})), target, base=base)
    start = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(start, len(payload)))
    mutant = payload[:start] + data.draw(st.binary(max_size=40)) + payload[end:]
    if mutant == payload:
        assert_equal(decode(mutant, base), decode(payload, base))
    else:
        with pytest.raises(CodecError):
            decode(mutant, base)


@pytest.mark.slow
@settings(seeded, max_examples=300)
@given(data=st.data(), target=targets)
def test_a_mutation_under_new_checksums_never_breaks_the_decoder(
    data: st.DataObject, target: CodecTarget, base: BaseSpec, make_update: MakeUpdate
) -> None:
    payload = encode(make_update({Q0: 2, GATE0: 1}, kept=frozenset({K0})), target, base=base)
    mutant = bytearray(payload)
    in_header = data.draw(st.booleans())
    for _ in range(data.draw(st.integers(1, 4))):
        mutant[data.draw(st.integers(0, 100 if in_header else len(payload) - 1))] = data.draw(
            st.integers(0, 255)
        )
    try:
        update = decode(resealed(mutant, base, payload), base)
    except CodecError:
        return
    for module, factors in update.factors.items():
        d_out, d_in = base.module_shapes[module]
        assert (factors.b.shape, factors.a.shape) == ((d_out, factors.rank), (factors.rank, d_in))
        assert np.isfinite(factors.a).all()
        assert np.isfinite(factors.b).all()


@settings(seeded, max_examples=200)
@given(junk=st.binary(max_size=300), opens_well=st.booleans())
def test_junk_is_refused(junk: bytes, opens_well: bool, base: BaseSpec) -> None:
    with pytest.raises(CodecError):
        decode((b"HLRA\x01\x08" if opens_well else b"") + junk, base)


def test_every_single_bit_flip_is_refused_and_named(
    base: BaseSpec, make_update: MakeUpdate
) -> None:
    payload = encode(make_update({Q0: 1, K0: 1}), BITS4, base=base)
    spans = module_spans(parse_header(memoryview(payload), base), base)
    header_bytes = spans[Q0][0]
    for position in range(len(payload)):
        mutant = bytearray(payload)
        mutant[position] ^= 1 << position % 8
        with pytest.raises(CodecError) as error:
            decode(bytes(mutant), base)
        for module, (start, end) in spans.items():
            named = f"altered in module {module}, bytes {start}..{end - 1}" in str(error.value)
            assert named == (start <= position < end)
        if position >= len(payload) - 32:
            assert f"altered in its SHA-256, bytes {len(payload) - 32}..{len(payload) - 1}" in str(
                error.value
            )
        if 20 <= position < header_bytes:
            assert f"altered in the header, bytes 0..{header_bytes - 1}" in str(error.value)


def test_every_truncation_is_refused_and_named(base: BaseSpec, make_update: MakeUpdate) -> None:
    payload = encode(make_update({Q0: 1, K0: 2}), BITS8, base=base)
    spans = module_spans(parse_header(memoryview(payload), base), base)
    for length in range(len(payload)):
        with pytest.raises(CodecError, match=f"truncated at byte {length}") as error:
            decode(payload[:length], base)
        place = next((m for m, (start, end) in spans.items() if start <= length < end), None)
        if place:
            assert f"module {place}, bytes {spans[place][0]}.." in str(error.value)
        elif length < spans[Q0][0]:
            assert "in the header" in str(error.value)
        else:
            assert "in its SHA-256" in str(error.value)


def test_bytes_after_the_end_are_refused(base: BaseSpec, make_update: MakeUpdate) -> None:
    payload = encode(make_update({Q0: 1}), BITS8, base=base)
    with pytest.raises(CodecError, match=f"3 bytes too many after its end at byte {len(payload)}"):
        decode(payload + b"abc", base)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"GGUF", "opens with b'GGUF'"),
        (4, b"\x02", "format version 2, this decoder knows 1"),
        (5, b"\x06", "6 bits a coefficient"),
        (6, b"\x09\x00", "counts 9 modules, the base model has 5"),
        (16, b"\xff\xff\xff\xff", "declares a payload of 4294967295 bytes, its own ranks make"),
        (52, b"\x07", "module bitmap"),
        (53, b"\x80", "module bitmap"),
        (52, b"\x05", "2 modules sent and 0 kept make 4"),
        (54, b"\x00", "rank 0, outside 1..12"),
        (54, b"\xff", "rank 255, outside 1..12"),
        (54, b"\x02", "its own ranks make"),
    ],
)
def test_a_sealed_header_that_lies_is_refused(
    offset: int, value: bytes, message: str, base: BaseSpec, make_update: MakeUpdate
) -> None:
    payload = encode(make_update({Q0: 1}), BITS8, base=base)
    mutant = bytearray(payload)
    mutant[offset : offset + len(value)] = value
    with pytest.raises(CodecError, match=message):
        decode(resealed(mutant, base, payload), base)


def test_a_header_length_beyond_the_payload_is_refused(
    base: BaseSpec, make_update: MakeUpdate
) -> None:
    payload = bytearray(encode(make_update({Q0: 1}), BITS8, base=base))
    for header_bytes in (0, 55, len(payload) + 1, 2**32 - 1):
        payload[12:16] = struct.pack("<I", header_bytes)
        with pytest.raises(CodecError, match="header"):
            decode(bytes(payload), base)


def test_another_base_model_is_refused_with_both_hashes(
    base: BaseSpec, make_update: MakeUpdate
) -> None:
    update = make_update({Q0: 1})
    other = replace(base, identity="fedcba9876543210" * 4)
    with pytest.raises(CodecError, match=r"0123456789ab.*fedcba987654"):
        decode(encode(update, BITS8, base=base), other)
    with pytest.raises(CodecError, match=r"0123456789ab.*fedcba987654"):
        encode(update, BITS8, base=other)


@pytest.mark.parametrize(
    ("planned", "message"),
    [
        ({Q0: 2, K0: 1, Q1: KEEP}, None),
        ({Q0: 2, K0: 1, Q1: KEEP, GATE0: 0}, None),
        ({Q0: 3, K0: 1, Q1: KEEP}, f"module {Q0}: the plan says 3, the update holds 2"),
        ({Q0: 2, Q1: KEEP}, f"module {K0}: the plan says 0, the update holds 1"),
        ({Q0: 2, K0: 1, Q1: 0}, f"module {Q1}: the plan says 0, the update holds keep"),
        (
            {Q0: 2, K0: 1, Q1: KEEP, GATE0: KEEP},
            f"module {GATE0}: the plan says keep, the update holds 0",
        ),
    ],
)
def test_a_plan_is_exact(
    planned: dict[str, int | str], message: str | None, base: BaseSpec, make_update: MakeUpdate
) -> None:
    update, plan = make_update({Q0: 2, K0: 1}, kept=frozenset({Q1})), RankPlan(ranks=planned)
    if message is None:
        assert encode(update, BITS8, base=base, plan=plan) == encode(update, BITS8, base=base)
    else:
        with pytest.raises(CodecError, match=message):
            encode(update, BITS8, base=base, plan=plan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kept": frozenset({K0})}, "keeps 1 modules and has kept_from = None"),
        ({"kept_from": "f0" * 32}, "keeps 0 modules and has kept_from"),
        ({"kept": frozenset({Q0}), "kept_from": "f0" * 32}, f"both sends and keeps {Q0}"),
        ({"kept": frozenset({K0}), "kept_from": "F0" * 32}, "kept_from .* is not a SHA-256"),
        ({"kept": frozenset("abcd"), "kept_from": "f0" * 32}, "does not adapt: a, b, c and 1 more"),
        ({"factors": {"lm_head": None}}, "does not adapt: lm_head"),
        ({"round_id": -1}, "round id -1 lies outside"),
        ({"round_id": 2**32}, "round id 4294967296 lies outside"),
        (
            {"factors": {K0: LowRankFactors(a=np.ones((8, 12)), b=np.ones((7, 8)))}},
            "rank 8, outside 1..7",
        ),
        (
            {"factors": {K0: LowRankFactors(a=np.ones((0, 12)), b=np.ones((7, 0)))}},
            "rank 0, outside 1..7",
        ),
        (
            {"factors": {K0: LowRankFactors(a=np.ones((2, 7)), b=np.ones((12, 2)))}},
            "needs \\(2, 12\\) and \\(7, 2\\)",
        ),
        (
            {"factors": {K0: LowRankFactors(a=np.full((1, 12), np.nan), b=np.ones((7, 1)))}},
            f"module {K0}: .*not finite",
        ),
    ],
)
def test_an_update_that_does_not_hold_together_is_refused(
    changes: dict[str, object], message: str, base: BaseSpec, make_update: MakeUpdate
) -> None:
    with pytest.raises(CodecError, match=message):
        encode(replace(make_update({Q0: 1}), **changes), BITS8, base=base)


def test_rank_is_at_most_255_however_large_the_module() -> None:
    base = BaseSpec(identity="a" * 64, module_shapes={"m": (300, 300)})
    for rank, fits in ((255, True), (256, False)):
        factors = LowRankFactors(
            a=np.ones((rank, 300), np.float32), b=np.ones((300, rank), np.float32)
        )
        update = LoraUpdate(round_id=0, base_identity=base.identity, factors={"m": factors})
        if fits:
            assert decode(encode(update, BITS8, base=base), base).factors["m"].rank == 255
        else:
            with pytest.raises(CodecError, match=r"rank 256, outside 1\.\.255"):
                encode(update, BITS8, base=base)


def test_digest_is_the_sha256_of_the_whole_payload(base: BaseSpec, make_update: MakeUpdate) -> None:
    payload = encode(make_update({Q0: 1}), BITS8, base=base)
    assert digest(payload) == sha256(payload).hexdigest()
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_codec_imports_nothing_above_the_contract() -> None:
    script = (
        "import sys, hil.codec; print(*sorted(m for m in sys.modules if '.' not in m or "
        "m.startswith('hil.')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    loaded = set(run.stdout.split())
    of_the_kit = {name for name in loaded if name.startswith("hil.")}
    assert {name for name in of_the_kit if not name.startswith("hil.contract.")} <= {
        "hil.codec",
        "hil.codec.layout",
        "hil.codec.payload",
        "hil.codec.quantiser",
        "hil.contract",
    }
    assert not loaded & {"torch", "scipy", "cloud", "edge_device", "radio", "pydantic"}
