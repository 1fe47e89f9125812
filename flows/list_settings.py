"""`unclip embed LIST --set urls.FIELD=value --set download.FIELD=value`: how a URL list is read and fetched."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from flows.config import validated
from flows.yaml_source import Values, override
from unclip.data.config import DownloadConfig, FolderConfig, ShardsConfig, UrlsConfig
from unclip.data.dump_origin import DumpSource
from unclip.data.fetched import PICTURES, FetchedConfig
from unclip.data.opt_outs import blocking

LEAST = 0.1  # of a shard's rows: old lists have 40 % gone, some shards more; below a tenth something else is wrong


class ListSettings(BaseModel):
    """What `--set` may say of a URL list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: UrlsConfig
    download: DownloadConfig


def source_and_how(
    found: FolderConfig | ShardsConfig | UrlsConfig,
    target: Path,
    overrides: Sequence[str],
    allow_private: bool,
    retry: bool,
) -> tuple[DumpSource, DownloadConfig]:
    """What a dump is made from, and how that is fetched if it is a URL list.

    Raises: ValueError for an option that has no effect, and as `list_settings`.
    """
    if isinstance(found, UrlsConfig):
        urls, how = list_settings(found.path, overrides, allow_private)
        return FetchedConfig(urls=urls, folder=target / PICTURES), how
    for option, is_given in (("--set", overrides), ("--allow-private", allow_private), ("--retry", retry)):
        if is_given:
            raise ValueError(f"{option} has no effect: SOURCE is no URL list")
    return found, DownloadConfig()


def list_settings(path: str, overrides: Sequence[str], allow_private: bool) -> tuple[UrlsConfig, DownloadConfig]:
    """How the list at a path is read and fetched.

    Raises: ValueError naming each setting that is wrong or has no effect.
    """
    values = Values({"urls": {"path": path}, "download": {"min_success_fraction": LEAST}})
    for text in overrides:
        name = text.partition("=")[0]
        if name == "urls.path":
            raise ValueError("--set urls.path has no effect: SOURCE is the list")
        if name == "download.allow_private" and allow_private:
            raise ValueError("--allow-private and --set download.allow_private say the same: leave one of them out")
        if name in ("urls", "download"):
            raise ValueError(f"--set {name} must name a field: --set {name}.FIELD=value")
        override(values, text)
    if allow_private:
        values.tree["download"]["allow_private"] = True
    settings = validated(ListSettings, values, "embed")
    return settings.urls, blocking(settings.download, settings.urls)
