"""Tiny models with tokenizers of their own, as folders in open_clip's layout."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from models.clip import Clip, ClipSpec

WORDS = ["a", "red", "blue", "circle", "square", "of", "and", "the"]
CAPTIONS = ["A Red_circle!", "the blue square, and the red circle", "square", "a " * 50, "an unknown word"]
TEXT = {"context_length": 12, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2, "hf_tokenizer_name": "org/none"}
VISION = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8}
SIGLIP = {
    "embed_dim": 16,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": VISION,
    "text_cfg": {
        **TEXT,
        "no_causal_mask": True,
        "pool_type": "last",
        "proj_bias": True,
        "tokenizer_kwargs": {"clean": "canonicalize"},
    },
}
CLIPA = {
    "embed_dim": 16,
    "vision_cfg": VISION,
    "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last", "tokenizer_kwargs": {"strip_sep_token": True}},
}
WORLDWIDE = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 2}}


def unigram():
    """As SigLIP's: the end token, 1, is padding too."""
    tokens = ["<unk>", "</s>", "▁", *(f"▁{word}" for word in WORDS), *"abcdefghijklmnop"]
    library = Tokenizer(models.Unigram([(token, -float(place)) for place, token in enumerate(tokens)], unk_id=0))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    library.add_special_tokens(["<unk>", "</s>"])
    return library, {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "added_tokens_decoder": {}}


def word_piece():
    """As BERT's, whose files name no token; the separator is to be stripped."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *(f"##{letter}" for letter in "abcdefgh"), "!"]
    library = Tokenizer(models.WordPiece({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    library.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    library.add_special_tokens(tokens[:4])
    return library, {"do_lower_case": True}


def with_start():
    """As XLM's: start 0, padding 1, end 2."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *WORDS]
    library = Tokenizer(models.WordLevel({token: place for place, token in enumerate(tokens)}, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", 0), ("</s>", 2)]
    library.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    library.add_special_tokens(tokens[:4])
    return library, {"pad_token": {"content": "<pad>"}}


KINDS = {"siglip": (SIGLIP, unigram), "clipa": (CLIPA, word_piece), "worldwide": (WORLDWIDE, with_start)}


def model_folder(folder, kind):
    """A folder of random weights with its tokenizer, and the library's tokenizer."""
    model_cfg, make = KINDS[kind]
    torch.manual_seed(0)
    network = Clip(ClipSpec.of_model("x", model_cfg, {})).network
    with torch.no_grad():
        for weights in network.parameters():  # as if it were trained: no two captions are near each other
            weights.add_(torch.randn_like(weights) * 0.2)
    folder.mkdir()
    library, said = make()
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
    weights = {name: value.contiguous().clone() for name, value in network.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder, library
