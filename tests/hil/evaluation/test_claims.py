"""The paper's claims, on rows whose answers are known."""

import numpy as np
import pytest

from hil.evaluation.claims import (
    against_trained,
    against_trained_moving,
    at_equal_loss,
    beside,
    bits_at_equal_y,
    by_channel,
    curve,
    gap_at_equal_bits,
    steps,
)
from hil.evaluation.statistics import Curve, History

CHANNELS = ["0 dB", "5 dB", "10 dB", "15 dB"]


def rows(**policies):
    """Policy → bits of its excess loss: loss = 1e5 / bits × factor, one round a stream and
    channel."""
    keys = (
        "policy",
        "channel",
        "stream",
        "payload_bits",
        "parameters",
        "airtime_s",
        "excess_nats",
        "score",
    )
    columns = {key: [] for key in keys}
    for name, (factor, all_bits) in policies.items():
        for stream in range(6):
            for channel, bits in zip(CHANNELS, all_bits, strict=True):
                noise = 1 + 0.1 * np.sin(7 * stream)
                loss = factor * 1e5 / bits * noise
                values = (name, channel, stream, bits, bits / 8, bits / 1e6, loss, 1 - loss / 10)
                for key, value in zip(columns, values, strict=True):
                    columns[key].append(value)
    return {key: np.array(values) for key, values in columns.items()}


BITS = [1e5, 2e5, 4e5, 8e5]


def test_half_the_loss_at_equal_bits_is_half_the_bits_at_equal_loss():
    found = rows(ours=(0.5, BITS), largest=(1.0, BITS))
    lines = list(at_equal_loss(found, ["ours"], ["largest"]))[2:]
    assert len(lines) == 3
    assert all("| 0.500 [0.500, 0.500] | 0.500 [0.500, 0.500] |" in line for line in lines)


def test_a_column_is_told_for_every_policy_and_channel():
    lines = list(
        by_channel(rows(ours=(0.5, BITS), largest=(1.0, BITS)), "payload_bits", ".0f", 1e-3)
    )
    assert lines[0] == "| policy | 0 dB | 5 dB | 10 dB | 15 dB |"
    assert (
        lines[2] == "| ours | 100 [100, 100] | 200 [200, 200] | 400 [400, 400] | 800 [800, 800] |"
    )
    assert [line.split(" | ")[0] for line in lines[3:]] == ["| largest"]


def test_a_rival_with_one_point_is_met_at_its_own_bits():
    found = rows(ours=(0.5, BITS), **{"adalora 4": (1.0, [3e5] * 4)})
    mine = curve(
        {k: v[found["policy"] == "ours"] for k, v in found.items()},
        "payload_bits",
        "excess_nats",
        CHANNELS,
    )
    theirs = Curve(
        mine.clusters,
        np.full((6, 1), 3e5),
        2 * 0.5 * 1e5 / 3e5 * (mine.loss[:, :1] / mine.loss[0, 0]),
    )
    gap = gap_at_equal_bits(mine, theirs)
    # ours on the line between (2e5, .25) and (4e5, .125) in log bits, times each stream's factor
    at = 0.25 + (0.125 - 0.25) * np.log2(1.5)
    noise = mine.loss[:, 0] / 0.5
    assert gap.mean == pytest.approx((at * noise).mean() - theirs.loss.mean(), rel=1e-6)
    assert gap.low <= gap.mean <= gap.high < 0
    ratio = bits_at_equal_y(mine, theirs)
    level = theirs.loss.mean() / noise.mean()  # 1/3: between (1e5, .5) and (2e5, .25) in log bits
    assert ratio.mean == pytest.approx(1e5 * 2 ** ((0.5 - level) / 0.25) / 3e5, rel=1e-6)
    [line] = list(against_trained(found, ["ours"], ["adalora 4"]))[2:]
    assert line.startswith("| ours | adalora 4 | 300 |")


def test_where_the_channel_moves_prices_make_the_curve():
    found = rows(
        **{
            "ours": (0.5, [8e5] * 4),
            "ours at 1": (0.5, [2e5] * 4),
            "other": (9.0, BITS),
            "adalora 4": (1.0, [4e5] * 4),
        }
    )
    moving = {**found, "channel": np.where(found["channel"] == "0 dB", "varying", found["channel"])}
    line, of_air = list(against_trained_moving(moving, "ours", ["adalora 4"]))[2:]
    assert of_air == line.replace("400 kbit", "400 ms")  # a microsecond a bit
    head, gap, ratio = line.split("400 kbit | ")[0], *line.split(" | ")[4:7:2]
    assert head == "| varying | ours | adalora 4 | "
    # halfway in log bits between (2e5, .25) and (8e5, .0625), beside (4e5, .25): a tenth of it in
    # score
    mean = np.mean(1 + 0.1 * np.sin(7 * np.arange(6)))
    assert gap.startswith(f"{100 * (0.25 - (0.25 + 0.0625) / 2) / 10 * mean:+.2f} [")
    assert ratio.startswith("0.500 ")


def test_two_evaluations_are_told_apart_round_by_round():
    def evaluated(factor, **more):
        found = rows(ours=(factor, BITS), **more)
        places = {
            key: np.zeros(len(found["stream"]), int)
            for key in ("train_seed", "policy_seed", "round")
        }
        return {**found, **places, "scope": np.array(["round"] * len(found["stream"]))}

    one, other = evaluated(0.5, new=(1.0, BITS)), evaluated(1.0, old=(1.0, BITS))
    other = {key: values[::-1] for key, values in other.items()}  # in whatever order
    lines = list(beside(one, other))
    assert len(lines) == 2 + 3 + 1 + 2 + 4  # for the policy that both have
    assert all(line.endswith("| 0.500 [0.500, 0.500] |") for line in lines[2:5])
    noise = np.mean(1 + 0.1 * np.sin(7 * np.arange(6)))
    moving = [
        {**found, "channel": np.array(["varying"] * len(found["stream"]))} for found in (one, other)
    ]
    assert len(list(beside(*moving))) == 2 + 1 + 2 + 1  # one channel makes no curve
    for line, channel, bits in zip(lines[8:], CHANNELS, BITS, strict=True):
        assert line.startswith(f"| ours | {channel} | {-0.5e5 / bits * noise:+.4f} [")
        assert f"| {100 * 0.05e5 / bits * noise:+.2f} [" in line


def test_the_target_lies_between_chance_and_ppo_alone():
    def history(name, rewards):
        return History(name, 0, tuple(range(0, 100 * len(rewards), 100)), tuple(rewards))

    lines = list(
        steps(
            [
                history("random feasible", [-1.0]),
                history("ppo", [-1.0, -0.5, 0.0]),
                history("ours", [0.1]),
            ]
        )
    )
    assert "target -0.0500" in lines[0]
    assert lines[4].startswith("| ppo |")
    assert lines[4].endswith("| 190 |")
    assert lines[5].endswith("| 0 |")
