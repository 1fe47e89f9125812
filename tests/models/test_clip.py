"""Facts about the CLIP wrapper."""

import json

import pytest
import torch

from models.clip import Clip, ClipSpec, resize, zero_shot
from models.config import ClipConfig, TextConfig, VisionConfig
from models.tokenizer import seen_ids

torch.set_num_threads(1)
CAPTIONS = ["a red circle", "a blue square", "a green star", "a gray moon"]
CONFIG = ClipConfig(
    embed_dim=16,
    vision=VisionConfig(image_px=16, patch_px=4, width=32, layers=1, head_width=16),
    text=TextConfig(context=12, width=32, heads=2, layers=1),
)


@pytest.fixture
def clip():
    torch.manual_seed(0)
    return Clip(ClipSpec.from_config(CONFIG, seen_ids(CAPTIONS)))


def test_bytes_and_floats_of_one_picture_are_one_embedding(clip):
    pixels = torch.randint(0, 256, (2, 24, 24, 3), dtype=torch.uint8)
    floats = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.allclose(clip.encode_image(pixels), clip.encode_image(floats), atol=1e-5)


def test_a_wide_picture_is_cut_in_the_middle():
    picture = torch.zeros(1, 3, 16, 48)
    picture[..., 16:32] = 1
    assert (resize(picture, 16) == 1).all()
    assert resize(torch.rand(1, 3, 50, 33), 16).shape == (1, 3, 16, 16)


def test_shrinking_averages_a_checkerboard():
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(1, 3, 64, 64)
    assert (resize(board, 16) - 0.5).abs().max() < 0.02


def test_a_specification_survives_json(clip):
    assert ClipSpec.from_json(json.loads(json.dumps(clip.spec.to_json()))) == clip.spec


def test_a_batch_can_be_overfitted(clip):
    tokens, images = clip.tokenize(CAPTIONS), torch.rand(4, 3, 16, 16) * 2 - 1
    optimiser = torch.optim.Adam(clip.parameters(), lr=3e-3)
    for _ in range(30):
        loss, figures = clip.loss(images, tokens)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1 and figures["batch_r1"] == 1


def test_padding_after_the_end_does_not_count(clip):
    tokens = clip.tokenize(CAPTIONS)
    assert torch.allclose(clip.encode_text(tokens)[:1], clip.encode_text(tokens[:1]), atol=1e-6)
    assert clip.encode_text(tokens.long()).dtype == torch.float32


def test_zero_shot_picks_each_images_own_nearest_caption():
    choices = torch.eye(3).expand(2, 3, 3)
    assert zero_shot(torch.eye(3)[[2, 0]], choices).tolist() == [2, 0]


@pytest.mark.parametrize("name", ["ViT-H-14", "RN50"])
def test_a_named_model_builds_on_the_meta_device(name):
    with torch.device("meta"):
        clip = Clip(ClipSpec.from_name(name))
    assert clip.spec.vocabulary is None and clip.vocab_size == 49408
    assert clip.spec.embed_dim == 1024 and clip.spec.image_px == 224


def test_the_papers_vision_tower_builds_on_the_meta_device():
    config = ClipConfig(
        embed_dim=1024,
        vision=VisionConfig(image_px=256, patch_px=16, width=1280, layers=32, head_width=80),
        text=TextConfig(context=77, width=1024, heads=16, layers=24),
    )
    with torch.device("meta"):
        clip = Clip(ClipSpec.from_config(config, range(49405)))
    assert sum(p.numel() for p in clip.network.visual.parameters()) > 600e6


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP2", "ViT-L-14-CLIPA", "ViT-H-14-worldwide", "coca_ViT-L-14"])
def test_a_model_with_a_tokenizer_or_decoder_of_its_own_builds_without_its_files(name):
    with torch.device("meta"):
        clip = Clip(ClipSpec.from_name(name))
    _, tokens = clip.example_inputs()
    assert clip.encode_text(tokens).shape == (1, clip.spec.embed_dim)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="no model 'ViT-Q'"):
        ClipSpec.from_name("ViT-Q")
