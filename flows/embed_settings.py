"""What `unclip embed SOURCE --set` may say, by the names of pipelines.yaml."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.config import Model, Runner, validated
from flows.yaml_source import Values, override
from tasks.dump import default_workers, dump_source
from unclip.data.config import DownloadConfig, EmbedConfig, FolderConfig, IndexConfig, UrlsConfig
from unclip.data.dump_origin import DumpSource
from unclip.data.fetched import PICTURES, FetchedConfig
from unclip.data.opt_outs import blocking

LEAST = 0.1  # of a shard's rows: old lists have 40 % gone, some shards more; below a tenth something else is wrong
CLUSTERS = ("dask", "ray")
OF_SOURCES = {"folder": "folder", "urls": "URL list", "download": "URL list"}
GIVEN = ("folder.folder", "urls.path")  # by SOURCE


class EmbedSettings(BaseModel):
    """What may be said of any source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embed: EmbedConfig
    index: IndexConfig
    runner: Runner


class FolderSettings(EmbedSettings):
    """What may be said of a folder."""

    folder: FolderConfig


class ListSettings(EmbedSettings):
    """What may be said of a URL list."""

    urls: UrlsConfig
    download: DownloadConfig


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A dump that is asked for. runner: of kind "here", or a cluster."""

    source: DumpSource
    download: DownloadConfig  # of a URL list
    embed: EmbedConfig
    index: IndexConfig
    runner: Runner

    @property
    def is_spread(self) -> bool:
        """Whether a cluster embeds."""
        return self.runner.kind in CLUSTERS


def asked_for(source: str, target: Path, overrides: Sequence[str], retry: bool) -> Asked:
    """The dump that a command line asks for; its source by its absolute path, as workers elsewhere need it.

    Raises: ValueError naming each setting that is wrong, and for one that has no effect.
    """
    found = dump_source(os.path.abspath(source))
    if isinstance(found, UrlsConfig):
        listed = {"urls": {"path": found.path}, "download": {"min_success_fraction": LEAST}}
        of_list = _said(ListSettings, listed, overrides)
        fetched = FetchedConfig(urls=of_list.urls, folder=target.absolute() / PICTURES)
        return _asked(fetched, blocking(of_list.download, of_list.urls), of_list, overrides)
    if retry:
        raise ValueError("--retry has no effect: SOURCE is no URL list")
    if isinstance(found, FolderConfig):
        of_folder = _said(FolderSettings, {"folder": vars(found)}, overrides)
        return _asked(with_captions(of_folder.folder), DownloadConfig(), of_folder, overrides)
    return _asked(found, DownloadConfig(), _said(EmbedSettings, {}, overrides), overrides)


def _asked(source: DumpSource, download: DownloadConfig, said: EmbedSettings, overrides: Sequence[str]) -> Asked:
    embed, kind = said.embed, said.runner.kind
    if kind == "threads":
        raise ValueError("--set runner.kind must be here, dask or ray, got 'threads': one process decodes in threads")
    if "embed.workers" not in map(name_in, overrides):
        embed = replace(embed, workers=0 if kind in CLUSTERS else default_workers())
    elif embed.workers and kind in CLUSTERS:
        raise ValueError(f"--set embed.workers must be 0 with runner.kind={kind}: its workers start no others")
    return Asked(source=source, download=download, embed=embed, index=said.index, runner=said.runner)


def with_captions(config: FolderConfig) -> FolderConfig:
    """A folder whose captions are there. Raises: ValueError where they are not."""
    if Path(config.captions).is_file():
        return config
    if next(Path(config.folder).glob("*.tar"), None):
        raise ValueError(f"SOURCE {config.folder} is a folder of tars: give '{config.folder}/*.tar', in quotes")
    raise ValueError(
        f"SOURCE needs a CSV with columns file and caption: there is no file {config.captions}; "
        "--set folder.captions=FILE names another"
    )


def name_in(text: str) -> str:
    """The setting that `--set` names."""
    return text.partition("=")[0]


def _said(model: type[Model], defaults: dict[str, Any], overrides: Sequence[str]) -> Model:
    values = Values({name: dict(tree) for name, tree in defaults.items()} | {"embed": {}, "index": {}, "runner": {}})
    for text in overrides:
        name = name_in(text)
        section = name.partition(".")[0]
        if section in OF_SOURCES and section not in defaults:
            raise ValueError(f"--set {name} has no effect: SOURCE is no {OF_SOURCES[section]}")
        if name in GIVEN:
            raise ValueError(f"--set {name} has no effect: it is SOURCE")
        if name in defaults:
            raise ValueError(f"--set {name} must name a field: --set {name}.FIELD=value")
        override(values, text)
    settings = validated(model, values, "embed")
    index = values.tree["index"]
    if index.get("kind") == "flat" and "min_recall" in index:
        raise ValueError("--set index.min_recall has no effect with index.kind=flat: it searches all rows")
    return settings
