"""Facts about a CLIP by name."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from flows.cli_data import CLIP_HELP
from models.clip import Clip, ClipSpec
from tasks.clip_encoder import ClipEncoder
from tasks.dump import clip_folder
from tasks.pretrained import load_pretrained, specified
from unclip.data.crops import Crop
from unclip.data.dump import MADE_FROM
from unclip.store import Store

SMALL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
SHAPES = {
    "plain": {},
    "resnet": {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}},
    "custom text": {"custom_text": True},
    "quick gelu": {"quick_gelu": True},
    "reads all, takes the last": {
        "custom_text": True,
        "text_cfg": {**SMALL["text_cfg"], "no_causal_mask": True, "pool_type": "last"},
    },
    "timm": {
        "vision_cfg": {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear",
                       "image_size": 32, "timm_model_pretrained": True},
    },
    "coca": {
        "custom_text": True,
        "vision_cfg": {**SMALL["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**SMALL["text_cfg"], "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
}  # fmt: skip
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}


def folder_of(folder, changes, preprocess=PREPROCESS):
    """A folder in open_clip's layout, of random weights, and the network."""
    model_cfg = SMALL | changes
    network = Clip(ClipSpec.of_model("x", model_cfg, {})).network
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess}))
    weights = {name: value.contiguous().clone() for name, value in network.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_gives_the_embeddings_that_open_clip_gives(shape, tmp_path):
    folder = folder_of(tmp_path / "f", SHAPES[shape])
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    encoder = ClipEncoder(load_pretrained(f"local-dir:{folder}"), "w")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    captions = ["a dog", "a cat that sits on the table beside the window"]
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(captions)
    square = encoder.crop(picture)  # the next test is about it
    with torch.inference_mode():
        image = theirs.eval().encode_image(preprocess(Image.fromarray(square))[None], normalize=False)
        text = theirs.encode_text(tokens, normalize=False)
    ours = encoder.encode_image(square[None])
    assert np.allclose(ours, image.numpy(), atol=1e-4)
    assert np.allclose(encoder.encode_text(encoder.tokenize(captions)), text.numpy(), atol=1e-5)


@pytest.mark.parametrize("mode", ["longest", "squash", "shortest"])
def test_squares_are_cut_as_open_clip_cuts_them(mode):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8))
    theirs = open_clip.transform.image_transform(
        48, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, fill_color=7
    )(picture)
    ours = Crop(px=48, resize_mode=mode, fill=7)(picture).astype(int)
    away = np.abs(ours - (theirs.permute(1, 2, 0).numpy() * 255).round())
    assert away.max() <= 1 and (away > 0).mean() < 0.01


def test_every_model_of_open_clip_is_known():
    specs = [ClipSpec.from_name(name) for name in open_clip.list_models()]
    assert len(specs) >= 144 and sum(spec.tokenizer is not None for spec in specs) >= 49


@pytest.mark.parametrize(
    ("text_cfg", "message"),
    [
        ({"tokenizer_kwargs": {"clean": "lower"}}, "settings of its own, {'clean': 'lower'}: not supported"),
        ({"hf_tokenizer_name": "a/b", "tokenizer_kwargs": {"clean": "all"}}, "settings of its own, {'clean': 'all'}"),
        ({"hf_tokenizer_name": "a/b", "tokenizer_kwargs": {"language": "de"}}, "settings of its own"),
        ({"hf_tokenizer_name": "a/b", "tokenizer_mode": "clips"}, "a tokenizer of its own in mode 'clips'"),
    ],
)
def test_settings_of_tokenizers_that_are_not_known_are_refused(text_cfg, message):
    with pytest.raises(ValueError, match=f"^clip.pretrained: 'x' has .*{message}"):
        ClipSpec.of_model("x", SMALL | {"text_cfg": {**SMALL["text_cfg"], **text_cfg}}, {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local-dir:{}/none", "/none is no folder"),
        ("local-dir:{}/empty", r"/empty has no \*\.safetensors"),
        ("local-dir:{}/pickled", r"has no \*\.safetensors, only model\.bin; no pickle is loaded\. If you trust it: "),
        ("local-dir:{}/bare", r"open_clip_config\.json cannot be read: No such file"),
        ("local-dir:{}/torn", "is no configuration of open_clip's"),
        ("ViT-B-32:{}/bare/w.safetensors", "does not hold the weights of 'ViT-B-32': "),
        ("ViT-B-99:openai", "open_clip has no model 'ViT-B-99'"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_a_line(name, message, tmp_path):
    for folder in ("pickled", "bare", "torn", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pickled" / "model.bin").write_bytes(b"pickle")
    for folder in ("bare", "torn"):
        save_file({"a": torch.zeros(1)}, tmp_path / folder / "w.safetensors")
    (tmp_path / "torn" / "open_clip_config.json").write_text('{"model_cfg": 3}')
    with pytest.raises(ValueError, match=message) as refusal:
        load_pretrained(name.format(tmp_path))
    assert "\n" not in str(refusal.value)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's own cache, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_repository_of_the_hub_is_found_in_its_cache(hub):
    place = hub / "models--org--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots").mkdir()
    folder = folder_of(place / "snapshots" / ("0" * 40), {})
    tokens = torch.ones(1, 20, dtype=torch.long)
    clips = [load_pretrained(name) for name in ("hf-hub:org/tiny", f"local-dir:{folder}")]
    assert torch.equal(*(clip.encode_text(tokens) for clip in clips)) and clips[0].spec.name == "hf-hub:org/tiny"
    assert specified("hf-hub:org/tiny") == clips[0].spec


@pytest.mark.parametrize("name", ["hf-hub:org/none", "ViT-B-32:laion2b_s34b_b79k"])
def test_weights_that_cannot_be_fetched_are_told_in_a_line(name, hub):
    with pytest.raises(ValueError, match=rf"^clip\.pretrained: {name} cannot be fetched \(local-dir:FOLDER") as refusal:
        load_pretrained(name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("weights", [save({"positional_embedding": torch.zeros(7, 9)}), b"torn"])
def test_weights_of_another_model_are_refused_in_a_line_by_the_option(weights, tmp_path):
    folder = folder_of(tmp_path / "f", {})
    (folder / "open_clip_model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError) as refusal:
        clip_folder(f"local-dir:{folder}", Store(tmp_path), tmp_path / "aside")
    assert str(refusal.value).startswith(f"--clip: {folder}/open_clip_model.safetensors does not hold the weights of ")
    assert "\n" not in str(refusal.value)


def test_help_error_and_docs_name_the_same_kinds_of_clip(tmp_path):
    with pytest.raises(ValueError) as refusal:
        clip_folder("nothere", Store(tmp_path), tmp_path / "aside")
    (told,) = re.findall(r"`--clip` takes (.*?)\. ", " ".join(Path("docs/dumps.md").read_text().split()))
    for kind in ("MODEL:WEIGHTS", "hf-hub:ORG/NAME", "local-dir:FOLDER", "folder with clip.json", "pipeline"):
        assert all(kind in text.replace("`", "") for text in (str(refusal.value), CLIP_HELP, told))


def test_bf16_weights_give_nearly_what_full_ones_do(tmp_path):
    folder = folder_of(tmp_path / "f", {})
    full, narrow = (ClipEncoder(load_pretrained(f"local-dir:{folder}"), "w", kind) for kind in ("fp32", "bf16"))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    tokens = full.tokenize(["one", "two words", "three words here"])
    pairs = [(encoder.encode_image(pixels), encoder.encode_text(tokens)) for encoder in (full, narrow)]
    for a, b in zip(*pairs, strict=True):
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.min() > 0.999 and not np.array_equal(a, b)


def test_a_dump_made_with_the_same_weights_has_the_clip_already(tmp_path):
    name = f"local-dir:{folder_of(tmp_path / 'f', {})}"
    first = clip_folder(name, Store(tmp_path), tmp_path / "aside", tmp_path / "dump")
    assert first == tmp_path / "aside"
    shutil.copytree(first, tmp_path / "dump" / "clip")
    assert clip_folder(name, Store(tmp_path), tmp_path / "b", tmp_path / "dump") == tmp_path / "dump" / "clip"
    weights = {key: value + 1 for key, value in load_pretrained(name).network.state_dict().items()}
    save_file(weights, tmp_path / "f" / "open_clip_model.safetensors")
    assert clip_folder(name, Store(tmp_path), tmp_path / "c", tmp_path / "dump") == tmp_path / "c"


@pytest.mark.parametrize("file", ["weights.safetensors", "clip.json", MADE_FROM])
@pytest.mark.parametrize("size", [0, 20])
def test_a_dumps_clip_that_was_cut_short_is_not_used(tmp_path, file, size):
    name = f"local-dir:{folder_of(tmp_path / 'f', {})}"
    made = clip_folder(name, Store(tmp_path), tmp_path / "dump" / "clip")
    assert clip_folder(name, Store(tmp_path), tmp_path / "aside", tmp_path / "dump") == made
    (made / file).write_bytes((made / file).read_bytes()[:size])
    assert clip_folder(name, Store(tmp_path), tmp_path / "aside", tmp_path / "dump") == tmp_path / "aside"
