"""Facts about the questions a CLIP must answer."""

import pytest
import torch

from models.clip import Clip, ClipSpec
from models.config import ClipConfig, TextConfig, VisionConfig
from models.tokenizer import seen_ids
from tasks.zero_shot import accuracies, questions, require_zero_shot, swap_word

torch.set_num_threads(1)


def scene(color, shape, background="white"):
    return {"objects": [{"color": color, "shape": shape, "size": "small"}], "background": background}


METAS = [scene("red", "circle"), scene("orange", "square", "black"), {"objects": [{}, {}]}, {}]
CAPTIONS = ["a red circle on a white background", "a small square", "a red circle above a blue cross", "a cat"]


def test_only_what_a_caption_says_of_a_single_object_is_asked():
    asked = [(q.row, q.attribute) for q in questions(CAPTIONS, METAS)]
    assert asked == [(0, "shape"), (0, "color"), (0, "background"), (1, "shape")]


def test_the_choices_are_the_caption_with_each_value_and_the_truth_among_them():
    color = questions(CAPTIONS, METAS)[1]
    assert color.captions == ("an orange circle on a white background", "a red circle on a white background")
    assert color.captions[color.truth] == CAPTIONS[0]


def test_an_article_agrees_with_the_new_word():
    assert swap_word("an orange cross", "orange", "red") == "a red cross"
    assert swap_word("a small cross", "cross", "arch") == "a small arch"


def test_a_clip_that_learned_two_pictures_tells_them_apart():
    torch.manual_seed(0)
    small = ClipConfig(
        embed_dim=8, vision=VisionConfig(image_px=8, width=16, layers=1, head_width=8),
        text=TextConfig(context=12, width=16, heads=2, layers=1),
    )  # fmt: skip
    clip = Clip(ClipSpec.from_config(small, seen_ids(CAPTIONS)))
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    optimiser = torch.optim.Adam(clip.parameters(), lr=3e-3)
    captions = ["a red circle", "an orange square"]
    for _ in range(40):
        optimiser.zero_grad()
        clip.loss(images[:2], clip.tokenize(captions))[0].backward()
        optimiser.step()
    asked = questions(captions, METAS[:2])
    assert accuracies(clip, lambda rows: images[rows], asked) == {"color": 1.0, "shape": 1.0}
    assert accuracies(clip, lambda rows: images[1 - rows], asked) == {"color": 0.0, "shape": 0.0}


def test_the_gate_names_the_worst_attribute_and_what_to_do():
    require_zero_shot({"shape": 0.95, "color": 1.0}, 0.95)
    with pytest.raises(ValueError, match=r"on shape is 0\.500, clip\.min_zero_shot is 0\.95: train it longer"):
        require_zero_shot({"color": 0.9, "shape": 0.5}, 0.95)
