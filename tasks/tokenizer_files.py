"""The tokenizer.json of a CLIP that has its own, with what the files beside it say: from the hub, or from a folder.

What transformers reads of these files when open_clip asks for a tokenizer is read here, and the same is made of it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from models.clip import ClipSpec, tokenizer_of
from models.file_tokenizer import FileTokenizer, TokenizerSpec, library_of
from unclip.data.embed import text_digest

FILE = "tokenizer.json"
CONFIG, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
USUAL = {"pad_token": ("<pad>", "[PAD]"), "sep_token": ("[SEP]",)}  # where no file says
READS_LEFT = ("Gemma", "Llama")  # classes of transformers that pad on the left where no file says
CLEANS = ("SiglipTokenizer", "Siglip2Tokenizer")  # classes that change captions before their tokenizer.json does

Read = Callable[[str], str | None]  # the text of a file by its name; None where there is none


def find_tokenizer(spec: ClipSpec, read: Read | None = None) -> tuple[ClipSpec, str]:
    """A specification with all that is to know of its tokenizer, and the tokenizer.json: "" for CLIP's byte pairs.

    read: of the folder it is in; without, the hub's repository that the specification names.

    Raises: ValueError where the files cannot be had, or ask for what is not supported.
    """
    own = spec.tokenizer
    if own is None:
        return spec, ""
    read = read or from_hub(own.source)
    try:
        if (text := read(FILE)) is None:
            raise ValueError("there is no tokenizer.json")
        said = json.loads(read(CONFIG) or "{}")
        if "added_tokens_decoder" not in said:  # a file of before there were any: the other one is right
            said |= json.loads(read(SPECIAL) or "{}")
        return with_tokenizer(spec, settle(own, text, said), text), text
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # of json too
        reason = str(error) if isinstance(error, ValueError) else f"its files are not as they should be: {error!r}"
        raise ValueError(f"clip.pretrained: {spec.name!r} needs the tokenizer of {own.source}: {reason}") from error


def with_tokenizer(spec: ClipSpec, settled: TokenizerSpec, text: str) -> ClipSpec:
    """A specification with its tokenizer, and how many tokens of a caption that fit."""
    longest = tokenizer_of(replace(spec, tokenizer=settled), text)(["a " * spec.context])
    return replace(spec, tokenizer=replace(settled, most_tokens=int((longest != settled.pad_id).sum())))


def settle(own: TokenizerSpec, text: str, said: Mapping[str, Any]) -> TokenizerSpec:
    """The tokenizer's specification with what its file and those beside it say. Raises: as `find_tokenizer`."""
    library, file = library_of(text), json.loads(text)
    refuse_other_ids(library.token_to_id, library.encode("a").ids, said)
    refuse_other_cleaning(file, said)
    listed = {token["content"] for token in file["added_tokens"]}
    tokens = {name: named_token(said.get(name)) for name in USUAL}
    tokens["pad_token"] = tokens["pad_token"] or (file.get("padding") or {}).get("pad_token")
    for name, usual in USUAL.items():
        tokens[name] = tokens[name] or next((token for token in usual if token in listed), None)
    ids = {name: None if token is None else library.token_to_id(token) for name, token in tokens.items()}
    if ids["pad_token"] is None or (own.strip_sep_token and ids["sep_token"] is None):
        raise ValueError(f"its files name no token for padding, or none to strip: {tokens}")
    left = str(said.get("tokenizer_class", "")).startswith(READS_LEFT)
    return replace(
        own,
        digest=text_digest(text),
        pad_id=ids["pad_token"],
        sep_id=ids["sep_token"] if own.strip_sep_token else None,
        padding_side=said.get("padding_side", "left" if left else "right"),
        truncation_side=said.get("truncation_side", "right"),
    )


def refuse_other_ids(id_of: Callable[[str], int | None], ids: list[int], said: Mapping[str, Any]) -> None:
    """Raises: ValueError where transformers would give tokens other ids than tokenizer.json, or add others to captions.

    ids: of a caption.
    """
    for number, token in said.get("added_tokens_decoder", {}).items():
        if id_of(token["content"]) != int(number):
            raise ValueError(f"{CONFIG} gives {token['content']!r} the id {number}, tokenizer.json does not")
    for kind, place in (("bos", 0), ("eos", -1)):
        token = named_token(said.get(f"{kind}_token"))
        asked, is_there = said.get(f"add_{kind}_token"), token is not None and id_of(token) in ids[place:][:1]
        if asked is not None and bool(asked) != is_there:
            raise ValueError(f"{CONFIG} says add_{kind}_token: {asked}, tokenizer.json does otherwise")


def refuse_other_cleaning(file: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    """Raises: ValueError where transformers would change captions otherwise than tokenizer.json."""
    if said.get("tokenizer_class") in CLEANS:
        raise ValueError(f"{said['tokenizer_class']} does more than its tokenizer.json says")
    normalizer = file.get("normalizer") or {}
    lowers = normalizer.get("lowercase")
    if normalizer.get("type") == "BertNormalizer" and said.get("do_lower_case", lowers) != lowers:
        raise ValueError(f"{CONFIG} says do_lower_case: {said['do_lower_case']}, tokenizer.json does otherwise")


def named_token(said: str | Mapping[str, Any] | None) -> str | None:
    """The token that a file names, by itself or with its properties."""
    return str(said["content"]) if isinstance(said, Mapping) else said


def from_folder(folder: Path) -> Read:
    """Reads the files of a folder."""
    return lambda name: (folder / name).read_bytes().decode() if (folder / name).is_file() else None


def from_hub(repository: str) -> Read:
    """Reads the files of a repository of the hub: fetched, or found in the hub's own cache."""

    def read(name: str) -> str | None:
        try:
            return Path(hf_hub_download(repository, name)).read_bytes().decode()
        except LocalEntryNotFoundError as error:  # no network
            if try_to_load_from_cache(repository, name) is _CACHED_NO_EXIST:
                return None
            raise ValueError(f"{name} cannot be fetched: {' '.join(str(error).split())[:200]}") from error
        except EntryNotFoundError:
            return None
        except OSError as error:
            raise ValueError(f"{name} cannot be fetched: {' '.join(str(error).split())[:200]}") from error

    return read


def saved_tokenizer(folder: Path, spec: ClipSpec) -> str:
    """The tokenizer.json beside a CLIP that was saved; "" for CLIP's byte pairs.

    Raises: ValueError when it is gone, or another.
    """
    if spec.tokenizer is None:
        return ""
    text = from_folder(folder)(FILE)
    if text is None or text_digest(text) != spec.tokenizer.digest:
        what = "is missing" if text is None else "is not the one that this CLIP was saved with"
        raise ValueError(f"{folder / FILE} {what}: its tokens would be other ones")
    return text


def save_tokenizer(folder: Path, tokenizer: object) -> None:
    """Write `tokenizer.json`, where a CLIP has one."""
    if isinstance(tokenizer, FileTokenizer):
        (folder / FILE).write_bytes(tokenizer.text.encode())
