"""Text towers of transformers: their configuration and tokenizer, from the hub or a folder.

open_clip asks the hub for both each time it builds such a model; here a CLIP keeps them, and needs no network again.
transformers makes the tokenizer, for some are not what their tokenizer.json says (NLLB's), or have none (mT5's).
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from open_clip.hf_configs import arch_dict
from open_clip.tokenizer import get_clean_fn

from models.clip import ClipSpec, build_network, tokenizer_of
from models.file_tokenizer import TokenizerSpec, library_version
from tasks.tokenizer_files import from_folder, from_hub, with_tokenizer
from unclip.data.embed import text_digest

OF_NO_MATTER = ("dtype", "torch_dtype", "transformers_version", "_name_or_path")
RUNS_OTHERS = ("auto_map", "attn_implementation", "_attn_implementation", "quantization_config")  # code that is fetched
FILE = "text_config.json"  # in a folder; on the hub config.json of a repository of its own
PROBES = ("", "a", "Two cats, 3 dogs & one Élan\tvital!", "雪の中の犬", "a " * 600)


def find_tower(spec: ClipSpec, folder: Path | None = None) -> tuple[ClipSpec, str]:
    """A specification with all that is to know of its text tower and tokenizer, and the tokenizer.json.

    folder: with the tokenizer's files, as in open_clip, and the tower's configuration, unless the hub is to be asked.

    Raises: ValueError where transformers is missing, the files cannot be had, or ask for what is not supported.
    """
    try:
        library_version("transformers")
        spec = replace(spec, tower=tower_config(spec.tower_name, folder))
        with torch.device("meta"):
            build_network(spec)
        if spec.tokenizer is None:
            raise ValueError("open_clip would feed it CLIP's byte pairs")
        settled, text = own_tokenizer(spec, str(folder or spec.tokenizer.source))
        return with_tokenizer(spec, settled, text), text
    except Exception as error:  # transformers raises nearly anything on files that are not as it wants them
        first = " ".join((str(error) or repr(error)).split())[:300]
        raise ValueError(f"clip.pretrained: {spec.name!r}, text tower {spec.tower_name}: {first}") from error


def tower_config(name: str, folder: Path | None) -> dict[str, Any]:
    """transformers' configuration of a tower, which computes in float32 whatever its weights were kept in."""
    text = (from_folder(folder)(FILE) if folder else None) or from_hub(name)("config.json")
    if text is None:
        raise ValueError("there is no config.json")
    config: Any = json.loads(text)
    if not isinstance(config, dict):
        raise ValueError(f"its configuration must be an object of JSON, is {type(config).__name__}")
    if (kind := config.get("model_type")) not in arch_dict:
        raise ValueError(f"towers of the kind {kind!r} are not supported, only {', '.join(arch_dict)}")
    from transformers import AutoConfig

    kept = {name: value for name, value in config.items() if name not in (*OF_NO_MATTER, *RUNS_OTHERS)}
    vocab_size = AutoConfig.for_model(**kept).vocab_size  # where the file leaves out what is usual
    return kept | {"vocab_size": vocab_size}


def own_tokenizer(spec: ClipSpec, place: str) -> tuple[TokenizerSpec, str]:
    """The tokenizer that transformers makes of the files in a place, as one file, and what else there is to know.

    Raises: ValueError where that file would make other tokens, or there is no vocabulary: transformers would go on.
    """
    from transformers import AutoTokenizer

    assert spec.tokenizer is not None
    theirs = AutoTokenizer.from_pretrained(place, local_files_only=os.path.isdir(place), trust_remote_code=False)
    lacks_strip = spec.tokenizer.strip_sep_token and theirs.sep_token_id is None
    if not theirs.is_fast or theirs.pad_token_id is None or lacks_strip:
        raise ValueError(f"its tokenizer {type(theirs).__name__} is not supported")
    if all(token in theirs.all_special_ids for ids in theirs(list(PROBES)).input_ids for token in ids):
        raise ValueError(f"there is no vocabulary among the tokenizer's files in {place}")
    text = theirs.backend_tokenizer.to_str()
    settled = replace(
        spec.tokenizer,
        digest=text_digest(text),
        pad_id=theirs.pad_token_id,
        sep_id=theirs.sep_token_id if spec.tokenizer.strip_sep_token else None,
        padding_side=theirs.padding_side,
        truncation_side=theirs.truncation_side,
    )
    ours = tokenizer_of(replace(spec, tokenizer=replace(settled, strip_sep_token=False)), text)(PROBES)
    length = {"max_length": spec.context, "padding": "max_length", "truncation": True}
    cleaned = [get_clean_fn(settled.clean)(probe) for probe in PROBES]
    for probe, ids, expected in zip(PROBES, ours.tolist(), theirs(cleaned, **length).input_ids, strict=True):
        if ids != expected:
            raise ValueError(f"its tokenizer.json makes other tokens of {probe[:40]!r} than transformers")
    return settled, text
