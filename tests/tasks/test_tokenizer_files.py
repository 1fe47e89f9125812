"""Facts about CLIPs with tokenizers of their own."""

import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import get_clean_fn
from typer.testing import CliRunner

from flows.cli import app, load_verbs
from models.clip import ClipSpec, reads_forward, tokenizer_of
from tasks.captions import require_readable
from tasks.clip_encoder import ClipEncoder, facts_of
from tasks.clip_files import load_clip, save_clip
from tasks.pretrained import load_pretrained
from tasks.tokenizer_files import find_tokenizer
from tests.tasks.tokenizer_fixtures import CAPTIONS, KINDS, SIGLIP, WORDS, model_folder, unigram
from tests.unclip.data.dump_fixtures import folder_dump
from unclip.artifact import Artifact
from unclip.data.embed import encode_texts
from unclip.data.table import read_part
from unclip.data.tokens import OwnTokens

torch.set_num_threads(1)


def ids_by_hand(kind, library, captions, length=12):
    """What open_clip's HFTokenizer gives, written out: clean, encode, cut before the end token, pad, strip."""
    text_cfg = KINDS[kind][0]["text_cfg"]
    kwargs, pad = text_cfg.get("tokenizer_kwargs", {}), {"siglip": 1, "clipa": 0, "worldwide": 1}[kind]
    rows = np.full((len(captions), length), pad, np.int32)
    for row, caption in enumerate(captions):
        ids = library.encode(get_clean_fn(kwargs.get("clean", "whitespace"))(caption)).ids
        ids = ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]
        rows[row, : len(ids)] = ids
    return np.where(rows == 3, 0, rows) if kwargs.get("strip_sep_token") else rows


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_embeddings_are_those_of_open_clip(kind, tmp_path):
    folder, library = model_folder(tmp_path / "f", kind)
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    encoder = ClipEncoder(load_pretrained(f"local-dir:{folder}"), "w")
    tokens = encoder.tokenize(CAPTIONS)
    assert np.array_equal(tokens, ids_by_hand(kind, library, CAPTIONS)) and len({*map(bytes, tokens)}) >= 4
    with torch.inference_mode():
        expected = theirs.encode_text(torch.from_numpy(tokens).long()).numpy()
    assert np.allclose(encode_texts(encoder, tokens, 2), expected, atol=1e-5)
    assert np.allclose(encoder.encode_text(tokens[2:3]), expected[2:3], atol=1e-5)
    assert not np.allclose(expected[0], expected[2], atol=0.1)


def test_padding_is_left_out_only_by_a_tower_that_neither_reads_nor_pools_it(tmp_path):
    clips = {kind: load_pretrained(f"local-dir:{model_folder(tmp_path / kind, kind)[0]}") for kind in KINDS}
    forward = {kind: reads_forward(clip.network, clip.spec.tokenizer.pad_id) for kind, clip in clips.items()}
    assert forward == {"siglip": False, "clipa": False, "worldwide": True}
    assert not reads_forward(clips["worldwide"].network, 2)  # its end token is padding


def exit_code(*arguments):
    load_verbs()
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False).exit_code


def test_a_dump_is_made_searched_and_verified_without_the_model_it_came_from(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, library = model_folder(tmp_path / "f", "siglip")
    folder_dump(tmp_path).rename(tmp_path / "other")  # its pictures are what is wanted
    assert exit_code("embed", tmp_path / "photos", "--out", tmp_path / "dump", "--clip", f"local-dir:{folder}") == 0
    part = read_part(tmp_path / "dump" / "parts" / "000000.parquet")
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.inference_mode():
        ids = ids_by_hand("siglip", library, part.captions)
        text = theirs.encode_text(torch.from_numpy(ids).long(), normalize=True).numpy()
    assert len(part) == 3 and np.array_equal(part.tokens, ids) and np.allclose(part.text, text, atol=2e-3)
    shutil.rmtree(folder)
    assert exit_code("search", tmp_path / "dump", "a red circle") == exit_code("verify", tmp_path / "dump") == 0


@pytest.fixture
def saved(tmp_path):
    folder, _ = model_folder(tmp_path / "f", "siglip")
    (tmp_path / "saved").mkdir()
    save_clip(tmp_path / "saved", load_pretrained(f"local-dir:{folder}"))
    return tmp_path / "saved"


def test_a_saved_clip_keeps_its_tokenizer_and_knows_another(saved):
    clip = load_clip(Artifact("clip", "k", saved, "d"))
    assert clip.tokenize(["a red circle"])[0, :5].tolist() == [3, 4, 6, 1, 1]
    file = saved / "tokenizer.json"
    file.write_text(file.read_text().replace("▁red", "▁rot"))
    with pytest.raises(ValueError, match=r"tokenizer\.json is not the one that this CLIP was saved with"):
        load_clip(Artifact("clip", "k", saved, "d"))
    file.unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing"):
        load_clip(Artifact("clip", "k", saved, "d"))


def test_the_table_says_which_tokenizer_and_not_where_it_came_from(saved):
    said = facts_of(saved).tokenizer
    assert OwnTokens.of(said) == OwnTokens(vocab_size=40, pad_id=1, most=11)
    record = json.loads((saved / "clip.json").read_text())
    names = []
    for changes in ({"source": "another/place"}, {"clean": "lower"}, {"digest": "0" * 64}):
        (saved / "clip.json").write_text(json.dumps(record | {"tokenizer": record["tokenizer"] | changes}))
        names.append(facts_of(saved).tokenizer)
    assert names[0] == said and len({*names}) == 3


def test_a_record_of_byte_pairs_is_what_it_was_before():
    spec = ClipSpec.from_name("ViT-B-32")
    assert "tokenizer" not in spec.to_json() and ClipSpec.from_json(spec.to_json()) == spec


def test_a_caption_is_counted_before_it_is_cut(saved):
    tokenizer = load_clip(Artifact("clip", "k", saved, "d")).tokenizer
    assert [tokenizer.count(caption) for caption in CAPTIONS[:4]] == [4, 8, 2, 51]
    with pytest.raises(ValueError, match="has 51 tokens, this CLIP reads 12"):
        require_readable(CAPTIONS, tokenizer)


def test_an_id_that_the_text_tower_does_not_know_is_named(tmp_path):
    library, said = unigram()
    library.add_tokens([f"{word}{number}" for word in WORDS for number in range(4)])
    texts = {"tokenizer.json": library.to_str(), "tokenizer_config.json": json.dumps(said)}
    spec, text = find_tokenizer(ClipSpec.of_model("x", SIGLIP, {}), texts.get)
    with pytest.raises(ValueError, match="caption 'of3' has token 50, the text tower knows 40"):
        tokenizer_of(spec, text)(["a", "of3"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token": None}, "name no token for padding"),
        ({"pad_token": "<nothing>"}, "name no token for padding"),
        ({"add_eos_token": False}, "says add_eos_token: False, tokenizer.json does otherwise"),
        ({"add_bos_token": True, "bos_token": "<unk>"}, "says add_bos_token: True"),
        ({"added_tokens_decoder": {"5": {"content": "<new>"}}}, "gives '<new>' the id 5"),
        ({"tokenizer_class": "SiglipTokenizer"}, "SiglipTokenizer does more"),
        ({"added_tokens_decoder": 3}, "not as they should be"),
    ],
)
def test_what_transformers_would_make_otherwise_is_refused_in_a_line(changes, message):
    library, said = unigram()
    texts = {"tokenizer.json": library.to_str(), "tokenizer_config.json": json.dumps(said | changes)}
    with pytest.raises(ValueError, match=message) as refusal:
        find_tokenizer(ClipSpec.of_model("x", SIGLIP, {}), texts.get)
    assert str(refusal.value).startswith("clip.pretrained: 'x' needs the tokenizer of org/none: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "there is no"), ("{}", "cannot be read"), ("[", "cannot be read")]
)
def test_a_tokenizer_that_is_missing_or_torn_is_refused_in_a_line(text, message):
    with pytest.raises(ValueError, match=rf"org/none: .*{message}|{message} tokenizer\.json") as refusal:
        find_tokenizer(ClipSpec.of_model("x", SIGLIP, {}), {"tokenizer.json": text}.get)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The hub's own cache, without network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_tokenizer_that_the_hub_cannot_give_is_one_line(offline):
    with pytest.raises(ValueError, match=r"tokenizer of timm/\S+: tokenizer\.json cannot be fetched: ") as refusal:
        load_pretrained("ViT-B-16-SigLIP:webli")
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_is_found_in_the_hubs_cache(offline):
    commit = "0" * 40
    here, absent = (offline / "models--org--none" / name / commit for name in ("snapshots", ".no_exist"))
    for folder in (here, absent, offline / "models--org--none" / "refs"):
        folder.mkdir(parents=True)
    (offline / "models--org--none" / "refs" / "main").write_text(commit)
    library, _ = unigram()
    (here / "tokenizer.json").write_text(library.to_str())
    (here / "special_tokens_map.json").write_text(json.dumps({"pad_token": "</s>"}))
    (absent / "tokenizer_config.json").touch()
    spec, text = find_tokenizer(ClipSpec.of_model("x", SIGLIP, {}))
    assert spec.tokenizer.pad_id == 1 and text == library.to_str()
