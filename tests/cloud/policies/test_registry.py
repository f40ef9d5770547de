"""One table of policy kinds: it is what [policy] of hil.toml accepts, and what evaluations run."""

import inspect
from pathlib import Path
from typing import Any, get_args

import pytest

from cloud.policies.registry import KINDS, constructor_of, load_policy_file, make_policy
from hil.contract import ConfigError
from hil.evaluation.grid import POLICIES, QUICK_POLICIES, contestant
from hil.learning.learners import KINDS as LEARNT_KINDS
from hil.settings import Settings
from hil.settings.policy import AnyPolicy, FilePolicy
from tests.cloud.policies.observations import observe

TABLES = {
    get_args(table.model_fields["kind"].annotation)[0]: table for table in get_args(AnyPolicy)
}


def test_the_kinds_are_those_of_the_settings() -> None:
    assert list(KINDS) == list(TABLES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_made_from_the_keys_of_its_table_with_the_same_defaults(kind: str) -> None:
    keys = {name: field for name, field in TABLES[kind].model_fields.items() if name != "kind"}
    parameters = inspect.signature(constructor_of(kind)).parameters
    assert set(parameters) == set(keys)
    for name, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            assert parameter.default == keys[name].default


def test_evaluations_and_trainings_know_every_kind_that_there_is_and_no_other() -> None:
    full = {member.kind for text in POLICIES for member in contestant(text).members}
    assert full == set(KINDS) - {"file"}
    assert {contestant(text).members[0].kind for text in QUICK_POLICIES} <= full
    assert {kind.removesuffix("-published") for kind in LEARNT_KINDS} <= full


def test_every_kind_is_explained_to_users() -> None:
    root = Path(__file__).parents[3]
    pages = "".join(path.read_text() for path in [root / "README.md", *root.glob("docs/*.md")])
    assert [kind for kind in KINDS if f"`{kind}`" not in pages] == []


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ({"kind": "fixed", "rank": 4}, "fixed rank 4"),
        ({"kind": "largest"}, "largest uniform"),
        ({"kind": "random", "seed": 3}, "random feasible"),
        ({"kind": "greedy"}, "spectral greedy"),
        ({"kind": "greedy", "per": "parameter"}, "greedy per parameter"),
        ({"kind": "greedy", "per": "kfac"}, "greedy by K-FAC"),
        ({"kind": "waterfill"}, "waterfill"),
        ({"kind": "price", "nats_per_mbit": 0.02}, "price 0.02 nats/Mbit"),
        ({"kind": "price", "feedback": True}, "price 0.01 nats/Mbit with feedback"),
        ({"kind": "adalora", "rank": 2}, "AdaLoRA rank 2"),
        ({"kind": "eva"}, "EVA rank 4"),
    ],
)
def test_make_policy_takes_every_analytic_table(table: dict[str, Any], name: str) -> None:
    assert make_policy(Settings.model_validate({"policy": table}).policy).name == name


OWN_POLICY = """
from __future__ import annotations
from dataclasses import dataclass
from hil.contract import RankPlan, RoundObservation

@dataclass
class Halves:
    name: str = "halves"
    def plan(self, obs: RoundObservation) -> RankPlan:
        return RankPlan(ranks=dict.fromkeys(obs.module_shapes, obs.r_max // 2))

class Nameless:
    def plan(self, obs):
        return None

class Planless:
    name = "planless"

class Demanding:
    name = "demanding"
    def __init__(self, rank): ...
    def plan(self, obs): ...
"""


def test_a_policy_of_ones_own_is_loaded_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_POLICY)
    policy = make_policy(FilePolicy(kind="file", path=f"{tmp_path}/mine.py:Halves"))
    assert policy.name == "halves"
    assert policy.plan(observe({"p": [1.0] * 6}, 0)).ranks == {"p": 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "absent.py:Halves",
            r"policy file .*absent.py' is missing; write path/to/file.py:ClassName",
        ),
        ("mine.py", "is missing; write path/to/file.py:ClassName"),
        ("mine.txt:Halves", r"policy file .*mine.txt is not Python; its name must end in .py"),
        ("mine.py:Thirds", "mine.py:Thirds does not load: AttributeError: .*Thirds"),
        ("broken.py:Halves", "broken.py:Halves does not load: SyntaxError"),
        (
            "mine.py:Nameless",
            r"mine.py:Nameless needs an attribute name \(a string\) and a method plan\(obs\)",
        ),
        ("mine.py:Planless", "mine.py:Planless needs an attribute name"),
        ("mine.py:Demanding", "mine.py:Demanding does not load: TypeError.*rank"),
    ],
)
def test_a_file_that_holds_no_policy_is_refused_in_one_line(
    tmp_path: Path, name: str, message: str
) -> None:
    for file, text in {
        "mine.py": OWN_POLICY,
        "mine.txt": OWN_POLICY,
        "broken.py": "class Halves(:",
    }.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_policy_file(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)
