"""Search in what holds an embedding table: a dump's folder, or a pipeline of the store."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.captions import require_readable
from tasks.clip_encoder import ClipEncoder
from tasks.dump import clip_folder, open_encoder
from unclip.artifact import Artifact
from unclip.data.dump import part_paths
from unclip.data.dump_pictures import ShardPictures
from unclip.data.dump_queries import Searchable, one_query, search_table, searchable_dump, sheet_of
from unclip.data.imports import refuse_clip
from unclip.runs import last_artifacts
from unclip.store import Store


def search(
    name: str, store: Path, text: str | None, image: Path | None, num: int, clip: str | None = None
) -> tuple[Searchable, list[dict[str, Any]]]:
    """A dump or a pipeline's table, and what it holds nearest to a text or a picture.

    clip: in place of its own, as `embed` takes it.

    Raises: ValueError as `one_query`, `clip_folder` and `refuse_clip`, for a name that is neither, and for a text that
        CLIP cannot read.
    """
    query = one_query(text, image, num)
    if is_dump(name):
        table, own = searchable_dump(Path(name)), Path(name) / "clip"
        if clip is None and not (own / "clip.json").is_file():
            if not (Path(name) / "manifest.json").is_file():
                raise ValueError(f"{name} was not finished: run embed again")
            raise ValueError(f"{name} holds no CLIP: give --clip, the one that made it")
        encoder = open_named(clip, store, own)
        refuse_clip(Path(name), encoder)
    else:
        table, own = pipeline_table(name, store)
        encoder = open_named(clip, store, own)
        refuse_other_weights(name, open_encoder(own), encoder)
    if isinstance(query, str):
        require_readable([query], encoder.clip.tokenizer)
    return table, search_table(table, encoder, query, num)


def open_named(clip: str | None, store: Path, own: Path) -> ClipEncoder:
    """The encoder of a CLIP by name, or of the folder without one."""
    if clip is None:
        return open_encoder(own)
    with TemporaryDirectory() as aside:
        return open_encoder(clip_folder(clip, Store(store), Path(aside)))


def is_dump(name: str) -> bool:
    """Whether a name is a folder: then it must be a dump. Raises: ValueError for a folder that is none."""
    if not Path(name).is_dir():
        return False
    part_paths(Path(name))
    return True


def pipeline_table(name: str, root: Path) -> tuple[Searchable, Path]:
    """The table of a pipeline's newest index, and the folder of the CLIP that embedded it.

    Raises: ValueError when the store has none of it.
    """
    store = Store(root)
    if not root.is_dir():
        raise ValueError(f"{name} is no dump, and {root} is no store (--store names another)")
    try:
        (index,) = last_artifacts(store, name, "index")
    except ValueError as error:
        raise ValueError(f"{name} is no dump, and {error}") from None
    parts = parents(store, index, "embed", "embed")
    shards = [found for part in parts for found in parents(store, part, "shards", "source", "download")]
    (clip,) = parents(store, parts[0], "clip", "clip")
    table = Searchable(
        index=index.path,
        rows=[shard.path / "rows.parquet" for shard in shards],
        read=ShardPictures([shard.path / "shard.tar" for shard in shards]),
    )
    return table, clip.path


def parents(store: Store, artifact: Artifact, name: str, *kinds: str) -> list[Artifact]:
    """What an artifact was made from, by the input's name. Raises: ValueError when some of it is gone."""
    found = []
    for key in artifact.manifest()["parents"][name]:
        parent = next((a for kind in kinds if (a := store.find(kind, key)) is not None), None)
        if parent is None:
            raise ValueError(f"{store.root} no longer holds the {name} {key[:12]} of {artifact.kind}: run again")
        found.append(parent)
    return found


def refuse_other_weights(name: str, own: ClipEncoder, given: ClipEncoder) -> None:
    """Raises: ValueError when the CLIP given is not the one that embedded the pipeline's table."""
    if own.weights_digest != given.weights_digest:
        raise ValueError(f"{name} was embedded with weights_digest {own.weights_digest}, the CLIP given has another")


def save_sheet(table: Searchable, hits: list[dict[str, Any]], heading: str, path: Path) -> None:
    """Write the pictures of the hits as one PNG."""
    sheet_of(table, hits, heading).save(path)
