"""Facts about CLIPs whose text tower is one of transformers'."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import open_clip
import pytest

from models.clip import Clip, ClipSpec
from tasks.pretrained import load_pretrained
from tasks.text_tower import tower_config
from tests.flows.conftest import ROOT

ASIDE = ROOT / ".tools" / "transformers"
REFUSALS = {
    "no vocabulary": "there is no vocabulary among the tokenizer's files in ",
    "odd activation": "of no kind",
    "odd width": "hidden_size",
    "odd padding": "adding",
}
KINDS = {"roberta": 0, "xlm-roberta": 0, "mt5": 3, "nllb": 31, "coca": 0}  # and the first token of the first caption


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a program found that has transformers, by kind."""
    assert ASIDE.is_dir(), "make aside has not been run"
    folder = tmp_path_factory.mktemp("towers")
    path = os.pathsep.join([str(ASIDE), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    argv = [sys.executable, "-m", "tests.tasks.tower_trial", str(folder)]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"kind"')]
    return {one["kind"]: one for one in facts}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_embeddings_are_those_of_open_clip(kind, found):
    one = found[kind]
    assert one["same_tokens"] and one["first_token"] == KINDS[kind]
    assert max(one["away"], one["away_cut"]) < 1e-5 < 0.1 < one["apart"]
    assert one["masks_padding"] and one["types"] == ["torch.float32"] and one["specified"] and one["flops"] > 1e4


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_one_and_a_dump_need_neither_the_hub_nor_the_folder(kind, found):
    one = found[kind]
    assert one["saved_away"] < 1e-5 and one["exit_codes"] == [0, 0, 0] and one["rows"] == 3
    assert one["versions"] == ["open_clip", "tokenizers", "torch", "transformers"]


def test_without_transformers_it_is_told_how_to_get_it(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("models.file_tokenizer.version", missing)
    with pytest.raises(ValueError) as refusal:
        load_pretrained("roberta-ViT-B-32:laion2b_s12b_b32k")
    expected = "clip.pretrained: 'roberta-ViT-B-32', text tower roberta-base: it needs the library transformers: "
    assert str(refusal.value) == f"{expected}pip install 'unclip[transformers]'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "llama"}', "towers of the kind 'llama' are not supported, only roberta, xlm-roberta"),
        ("[1]", "must be an object of JSON, is list"),
        ("{", "Expecting property name"),
    ],
)
def test_a_tower_of_another_kind_is_refused(tmp_path, text, message):
    (tmp_path / "text_config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        tower_config("org/none", tmp_path)


@pytest.mark.parametrize("damage", REFUSALS)
def test_files_of_a_tower_that_are_not_as_they_should_be_are_refused_in_a_line(damage, found):
    said = found["damaged"][damage]
    assert said.startswith("clip.pretrained: 'local-dir:") and REFUSALS[damage] in said and "\n" not in said


def test_no_code_of_a_model_is_run(found):
    assert found["damaged"]["ran"] is False


def test_a_name_alone_is_no_network():
    names = [name for name in open_clip.list_models() if ClipSpec.from_name(name).tower_name]
    assert len(names) == 10
    with pytest.raises(ValueError, match="nothing is known of xlm-roberta-base, the text tower of 'xlm-roberta-base-"):
        Clip(ClipSpec.from_name("xlm-roberta-base-ViT-B-32"))
