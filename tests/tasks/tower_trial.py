"""Tiny CLIPs with text towers of transformers beside open_clip's own: what was found, as JSON, a line a kind.

A program, for transformers lies in a folder of its own: `PYTHONPATH=.tools/transformers python -m
tests.tasks.tower_trial FOLDER`. open_clip imports it wherever it finds it, and no other test has to wait for that.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from typer.testing import CliRunner

from flows.cli import app, load_verbs
from models.clip import Clip, ClipSpec, masks_padding
from tasks.clip_encoder import ClipEncoder, facts_of
from tasks.clip_files import load_clip, save_clip
from tasks.pretrained import load_pretrained, specified
from tests.tasks.tokenizer_fixtures import CAPTIONS, VISION, WORDS
from tests.unclip.data.dump_fixtures import folder_dump
from unclip.artifact import Artifact
from unclip.data.table import read_part
from unclip.training.flops import measure

ENDS = ["<s>", "<pad>", "</s>", "<unk>"]
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 80, "vocab_size": 300, "pad_token_id": 1, "bos_token_id": 0,
        "eos_token_id": 2}  # fmt: skip
MT5 = {"model_type": "mt5", "vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
       "is_encoder_decoder": True, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}  # fmt: skip
M2M = {"model_type": "m2m_100", "vocab_size": 60, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
       "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
       "max_position_embeddings": 80, "is_encoder_decoder": True, "pad_token_id": 1, "bos_token_id": 0,
       "eos_token_id": 2}  # fmt: skip


def template(words, *tokens):
    """What is put around a caption."""
    return processors.TemplateProcessing(single=words, special_tokens=list(tokens))


def byte_pairs():
    """As RoBERTa's."""
    tokens = [*ENDS, *pre_tokenizers.ByteLevel.alphabet()]
    library = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return library, ENDS


def unigram(ends, around):
    """As XLM-R's and mT5's."""
    tokens = [*ends, "▁", *(f"▁{word}" for word in WORDS), *"abcdefghijklmnop"]
    unknown = ends.index("<unk>")
    library = Tokenizer(models.Unigram([(token, -float(n)) for n, token in enumerate(tokens)], unk_id=unknown))
    library.pre_tokenizer, library.post_processor = pre_tokenizers.Metaspace(), around
    return library, ends


def of_nllb():
    """As NLLB's, whose tokenizer.json puts the language last; transformers puts it first."""
    tokens = [*ENDS, "▁", *"abcdefghijklmnopqrstuvwxyz", "eng_Latn"]
    library = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, [], unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.post_processor = template("$A </s> eng_Latn", ("</s>", 2), ("eng_Latn", len(tokens) - 1))
    return library, [*ENDS, "eng_Latn"]


def kinds():
    """The tokenizer's library and special tokens, the tower, the tokenizer's class, open_clip's settings; by kind."""
    xlm = unigram(ENDS, template("<s> $A </s>", ("<s>", 0), ("</s>", 2)))
    mt5 = unigram(["<pad>", "</s>", "<unk>"], template("$A </s>", ("</s>", 1)))
    mean = {"hf_pooler_type": "mean_pooler"}
    first = {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}
    roberta = {"model_type": "roberta", "torch_dtype": "float16", **BERT}
    return {
        "roberta": (*byte_pairs(), roberta, "RobertaTokenizer", mean),
        "xlm-roberta": (*xlm, {"model_type": "xlm-roberta", **BERT}, "XLMRobertaTokenizer", mean),
        "mt5": (*mt5, MT5, "T5Tokenizer", mean),
        "nllb": (*of_nllb(), M2M, "NllbTokenizer", first),
        "coca": (*byte_pairs(), roberta, "RobertaTokenizer", {"hf_proj_type": "linear", "output_tokens": True}),
    }  # fmt: skip


def model_folder(folder, kind):
    """A folder in open_clip's layout, of random weights."""
    library, specials, tower, tokenizer, settings = kinds()[kind]
    text = {"context_length": 12, "hf_model_name": str(folder), "hf_tokenizer_name": "org/none", **settings}
    model_cfg = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text}
    if kind == "coca":
        model_cfg["vision_cfg"] = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
        model_cfg["multimodal_cfg"] = {"context_length": 12, "vocab_size": 300, "width": 16, "heads": 2, "layers": 1}
    spec = replace(ClipSpec.of_model("x", model_cfg, {}), tokenizer=None, tower={**tower, "torch_dtype": "float32"})
    torch.manual_seed(0)
    network = Clip(spec).network
    with torch.no_grad():
        for weights in network.parameters():  # as if it were trained: no two captions are near each other
            weights.add_(torch.randn_like(weights) * 0.2)
    folder.mkdir()
    library.add_special_tokens(specials)
    library.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": tokenizer, "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    for name in ("text_config.json", "config.json"):  # for unclip, and for open_clip
        (folder / name).write_text(json.dumps(tower))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
    state = network.half().float().state_dict()  # of the type that open_clip takes for the tower
    save_file(
        {name: value.contiguous().clone() for name, value in state.items()}, folder / "open_clip_model.safetensors"
    )
    return folder


def flops_of(spec):
    """What a pair costs, by a network that takes no memory."""
    with torch.device("meta"):
        network = Clip(spec)
    return measure(network, network.example_inputs())[0]


def exit_code(*arguments):
    """What a verb ends with."""
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False).exit_code


def trial(root, kind):
    """One kind beside open_clip; then saved, and a dump made with it, searched and verified when its folder is gone."""
    folder = model_folder(root / kind, kind)
    name = f"local-dir:{folder}"
    theirs = open_clip.create_model(name).float().eval()
    ids = open_clip.get_tokenizer(name)(CAPTIONS)
    with torch.inference_mode():
        expected = theirs.encode_text(ids, normalize=False).numpy()
    clip = load_pretrained(name)
    encoder = ClipEncoder(clip, "w")
    tokens = encoder.tokenize(CAPTIONS)
    distances = np.linalg.norm(expected[:3, None] - expected[None, :3], axis=-1)
    found = {
        "kind": kind,
        "same_tokens": np.array_equal(tokens, ids.numpy()),
        "first_token": int(tokens[0, 0]),
        "away": float(np.abs(encoder.encode_text(tokens) - expected).max()),
        "away_cut": float(np.abs(encoder.encode_text(tokens[2:3]) - expected[2:3]).max()),
        "apart": float(distances[~np.eye(3, dtype=bool)].min()),
        "masks_padding": masks_padding(clip.network, clip.spec.tokenizer.pad_id),
        "types": sorted({str(weights.dtype) for weights in clip.network.parameters()}),
        "specified": specified(name).tower == clip.spec.tower,
        "flops": flops_of(clip.spec),
    }
    (root / f"{kind}-saved").mkdir()
    save_clip(root / f"{kind}-saved", clip)
    dump = root / f"{kind}-dump"
    made = exit_code("embed", root / "photos", "--out", dump, "--clip", name)
    shutil.rmtree(folder)
    again = ClipEncoder(load_clip(Artifact("clip", "k", root / f"{kind}-saved", "d")), "w")
    found["saved_away"] = float(np.abs(again.encode_text(again.tokenize(CAPTIONS)) - expected).max())
    found["exit_codes"] = [made, exit_code("search", dump, "a red"), exit_code("verify", dump)]
    found["rows"] = len(read_part(dump / "parts" / "000000.parquet"))
    found["versions"] = sorted(facts_of(dump / "clip").versions)
    return found


def damaged(root):
    """What is said of folders that are not as they should be, and whether code of theirs was run."""
    said = {}
    changes = {"odd activation": {"hidden_act": "of no kind"}, "odd width": {"hidden_size": "x"},
               "odd padding": {"pad_token_id": 999}, "no vocabulary": {}}  # fmt: skip
    for damage, change in changes.items():
        folder = model_folder(root / damage.replace(" ", "-"), "roberta")
        tower = json.loads((folder / "text_config.json").read_text())
        (folder / "text_config.json").write_text(json.dumps(tower | change))
        if damage == "no vocabulary":
            (folder / "tokenizer.json").unlink()
        try:
            load_pretrained(f"local-dir:{folder}")
        except ValueError as error:
            said[damage] = str(error)
    folder = model_folder(root / "evil", "roberta")
    (folder / "evil.py").write_text(f"open({str(root / 'ran')!r}, 'w')\nclass C: pass\n")
    auto = {"auto_map": {"AutoConfig": "evil.C", "AutoTokenizer": ["evil.C", "evil.C"]}}
    for name in ("config.json", "text_config.json", "tokenizer_config.json"):
        record = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(record | auto))
    clip = load_pretrained(f"local-dir:{folder}")
    return said | {"ran": (root / "ran").exists() or "auto_map" in clip.spec.tower}


def main():
    """Try every kind in a folder, then folders that are damaged."""
    root = Path(sys.argv[1])
    load_verbs()
    folder_dump(root).rename(root / "other")  # its pictures are what is wanted
    for kind in kinds():
        print(json.dumps(trial(root, kind)), flush=True)
    print(json.dumps({"kind": "damaged", **damaged(root)}), flush=True)


if __name__ == "__main__":
    main()
