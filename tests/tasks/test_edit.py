"""What the editor of a stack does with two pictures and with words; a tiny stack that hears every condition."""

from dataclasses import replace
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows import cli_pictures
from models.clip import Clip, ClipSpec
from models.config import (
    CaptionEncoderConfig,
    ClipConfig,
    DecoderConfig,
    TextConfig,
    UNetConfig,
    UpsamplerConfig,
    VisionConfig,
)
from models.decoder import Decoder
from models.edits import text_diff
from models.stack import Rendering, Stack
from models.tokenizer import seen_ids
from models.upsampler import Upsampler
from tasks.edit import Editor

torch.set_num_threads(1)
RED, BLUE = (np.full((16, 16, 3), color, np.uint8) for color in ((200, 40, 40), (40, 40, 200)))
UNET = UNetConfig(channels=8, multiples=(1,), depth=1, head_channels=8)


@pytest.fixture(scope="module")
def editor() -> Editor:
    torch.manual_seed(0)
    vision = VisionConfig(image_px=8, width=16, layers=1, head_width=8)
    text = TextConfig(context=8, width=16, heads=2, layers=1)
    spec = ClipSpec.from_config(ClipConfig(embed_dim=8, vision=vision, text=text), seen_ids(["a photo of blue"]))
    clip, caption = Clip(spec), CaptionEncoderConfig(width=8, depth=1, heads=2)
    config = DecoderConfig(image_px=8, unet=UNET, caption=caption, num_steps=50)
    decoder = Decoder(config, embed_dim=8, vocab_size=clip.vocab_size, context=8)
    for parameter in decoder.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    sides = ((8, 12), (12, 16))  # untrained, they enlarge what they are given and add nothing
    mid, top = (Upsampler(UpsamplerConfig(low_px=a, high_px=b, unet=UNET, prediction="x0")) for a, b in sides)
    rendering = Rendering(mid_steps=1, top_steps=1)
    return Editor(stack=Stack(clip, {}, decoder, mid, top).eval(), rendering=rendering, num_steps=10, seed=0)


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


def test_the_ends_of_an_interpolation_are_what_the_latents_decode_to(editor: Editor) -> None:
    made = editor.interpolate(RED, BLUE, 3, fixed_noise=False)
    assert apart(made["0"], made["first again"]) <= 1 and apart(made["1"], made["second again"]) <= 1
    assert list(made) == ["first", "first again", "second", "second again", "0", "0.5", "1"]


def test_fixed_noise_is_one_random_latent_all_along(editor: Editor) -> None:
    made = editor.interpolate(RED, RED, 3, fixed_noise=True)
    assert apart(made["0"], made["0.5"]) <= 1 and apart(made["0.5"], made["1"]) <= 1
    assert apart(made["0"], made["first again"]) > 9
    assert apart(made["0"], replace(editor, seed=1).interpolate(RED, RED, 2, fixed_noise=True)["0"]) > 9
    moved = editor.interpolate(RED, BLUE, 2, fixed_noise=True)
    assert apart(moved["0"], moved["1"]) > 1


def test_a_caption_before_may_be_left_out(editor: Editor) -> None:
    alone, from_photo = (editor.edit(RED, start, "blue", [0.0, 1.0]) for start in (None, "a photo"))
    assert apart(alone["0"], alone["picture again"]) <= 1 and apart(from_photo["0"], alone["0"]) <= 1
    assert apart(from_photo["1"], alone["1"]) > 1


def test_an_edit_goes_from_the_first_caption_to_the_second(editor: Editor) -> None:
    _, (photo, blue) = editor.stack.read(["a photo", "blue"])
    moved = text_diff(editor.stack.decoder, editor._read(RED)[0], photo[None], blue[None], 0.5, editor.num_steps)
    assert apart(editor.edit(RED, "a photo", "blue", [0.5])["0.5"], editor._enlarged(moved)) <= 1


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "red.png", tmp_path / "blue.png"]
    for path, pixels in zip(paths, (RED, BLUE), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.mark.parametrize("is_fixed", [False, True])
def test_the_verb_interpolate_says_whether_noise_is_fixed(editor: Editor, photos: list[Path], is_fixed: bool) -> None:
    made = unwrap(cli_pictures.interpolate)(editor, *photos, num=2, fixed_noise=is_fixed)
    np.testing.assert_equal(made, editor.interpolate(RED, BLUE, 2, fixed_noise=is_fixed))


@pytest.mark.parametrize(("said", "start"), [("a photo", "a photo"), ("", None)])
def test_the_verb_edit_leaves_out_an_empty_caption(
    editor: Editor, photos: list[Path], said: str, start: str | None
) -> None:
    made = unwrap(cli_pictures.edit)(editor, photos[0], "blue", start=said, num=2, most=1.0)
    np.testing.assert_equal(made, editor.edit(RED, start, "blue", [0.0, 1.0]))
