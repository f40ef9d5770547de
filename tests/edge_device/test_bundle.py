"""The edge bundle: reads back what was written, and names the file that is not what it was."""

from __future__ import annotations

import json
import shutil

import pytest

from edge_device.bundle import load_bundle, write_bundle
from hil.contract import LabelQuestion, ModelError, ScoreSet


@pytest.fixture(scope="module")
def written(tiny_gguf, tiny_model, label_set, text_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    probe = ScoreSet(name="probe", chunks=("a weak signal — Größe",))
    return write_bundle(
        folder,
        tiny_gguf,
        quant="Q8_0",
        types=tiny_model.types,
        score_sets=[label_set, text_set],
        probe=probe,
    )


@pytest.fixture
def copy(written, tmp_path):
    """A bundle to damage."""
    return shutil.copytree(written.folder, tmp_path / "bundle")


@pytest.mark.slow
def test_bundle_reads_back(written, copy, label_set, text_set, tiny_gguf, tiny_model):
    bundle = load_bundle(copy)
    assert bundle.score_sets == {"labels": label_set, "text": text_set}
    assert bundle.probe == written.probe
    assert bundle.model == tiny_model
    assert bundle.quant == "Q8_0"
    assert bundle.model_path.read_bytes() == tiny_gguf.read_bytes()


@pytest.mark.slow
def test_score_sets_are_named_by_their_hash(written, label_set, text_set):
    names = {path.stem for path in (written.folder / "score_sets").iterdir()}
    assert names == {label_set.digest, text_set.digest}


@pytest.mark.slow
def test_writing_again_replaces_the_bundle(copy, tiny_gguf, tiny_model, text_set):
    write_bundle(
        copy, tiny_gguf, quant="Q8_0", types=tiny_model.types, score_sets=[text_set], probe=text_set
    )
    assert load_bundle(copy).score_sets == {"text": text_set}
    assert len(list((copy / "score_sets").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.gguf", "probe.json", "score_sets"])
def test_altered_file_is_named(copy, name):
    path = copy / name
    path = next(path.iterdir()) if path.is_dir() else path
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match=path.name):
        load_bundle(copy)


@pytest.mark.slow
def test_missing_files_are_named(copy, tmp_path):
    with pytest.raises(ModelError, match=r"no edge bundle: No such file.*manifest\.json"):
        load_bundle(tmp_path)
    (copy / "probe.json").unlink()
    with pytest.raises(ModelError, match=r"probe\.json.*hil provision"):
        load_bundle(copy)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"base_identity": "00" * 32},
        {"score_sets": 3},
        {"quant": None, "sha256": None},
    ],
)
def test_damaged_manifest_is_one_line(copy, change):
    path = copy / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match="hil provision") as error:
        load_bundle(copy)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_sets_that_cannot_be_scored_are_refused(tmp_path, tiny_gguf, tiny_model, text_set):
    both = ScoreSet(
        name="both",
        questions=(LabelQuestion(prompt="a", labels=(" b", " c"), answer=0),),
        chunks=("a b",),
    )
    for sets, message in (([both], "one of the two"), ([text_set, text_set], "same name")):
        with pytest.raises(ModelError, match=message):
            write_bundle(
                tmp_path,
                tiny_gguf,
                quant="Q8_0",
                types=tiny_model.types,
                score_sets=sets,
                probe=text_set,
            )


@pytest.mark.slow
def test_unknown_score_set_lists_the_known(written):
    with pytest.raises(ModelError, match=r"no score set 'news' \(it has labels, text\)"):
        written.score_set("news")
