"""What `unclip embed SOURCE --set` may say: `index.FIELD=value`, of a URL list `urls.` and `download.` as well."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.config import Model, validated
from flows.yaml_source import Values, override
from unclip.data.config import DownloadConfig, EmbedConfig, FolderConfig, IndexConfig, ShardsConfig, UrlsConfig
from unclip.data.dump_origin import DumpSource
from unclip.data.fetched import PICTURES, FetchedConfig
from unclip.data.opt_outs import blocking

LEAST = 0.1  # of a shard's rows: old lists have 40 % gone, some shards more; below a tenth something else is wrong
OF_LISTS = ("urls", "download")


class EmbedSettings(BaseModel):
    """What `--set` may say of any source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: IndexConfig = IndexConfig()


class ListSettings(EmbedSettings):
    """What `--set` may say of a URL list."""

    urls: UrlsConfig
    download: DownloadConfig


def embed_config(batch_size: int, precision: str, workers: int) -> EmbedConfig:
    """The options as settings. Raises: ValueError naming the option that is wrong."""
    try:
        return EmbedConfig(batch_size=batch_size, precision=precision, workers=workers)
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def settings_of(
    found: FolderConfig | ShardsConfig | UrlsConfig, target: Path, overrides: Sequence[str], retry: bool
) -> tuple[DumpSource, DownloadConfig, IndexConfig]:
    """What a dump is made from, how that is fetched if it is a URL list, and the index.

    Raises: ValueError naming each setting that is wrong, and for an option that has no effect.
    """
    if isinstance(found, UrlsConfig):
        said = _list_settings(found.path, overrides)
        listed = FetchedConfig(urls=said.urls, folder=target / PICTURES)
        return listed, blocking(said.download, said.urls), said.index
    without_effect = [f"--set {name}" for name in map(name_in, overrides) if name.partition(".")[0] in OF_LISTS]
    for option in [*without_effect, *(["--retry"] if retry else [])]:
        raise ValueError(f"{option} has no effect: SOURCE is no URL list")
    return found, DownloadConfig(), _said(EmbedSettings, {}, overrides).index


def _list_settings(path: str, overrides: Sequence[str]) -> ListSettings:
    if "urls.path" in map(name_in, overrides):
        raise ValueError("--set urls.path has no effect: SOURCE is the list")
    return _said(ListSettings, {"urls": {"path": path}, "download": {"min_success_fraction": LEAST}}, overrides)


def name_in(text: str) -> str:
    """The setting that `--set` names."""
    return text.partition("=")[0]


def _said(model: type[Model], defaults: dict[str, Any], overrides: Sequence[str]) -> Model:
    values = Values({**defaults, "index": {}})
    for text in overrides:
        if (name := name_in(text)) in values.tree:
            raise ValueError(f"--set {name} must name a field: --set {name}.FIELD=value")
        override(values, text)
    if values.tree["index"].get("kind") == "flat" and "min_recall" in values.tree["index"]:
        raise ValueError("--set index.min_recall has no effect with index.kind=flat: it searches all rows")
    return validated(model, values, "embed")
