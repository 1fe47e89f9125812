"""What `unclip embed --set` may say."""

from pathlib import Path

import pytest

from flows.embed_settings import LEAST, asked_for
from unclip.data.config import EmbedConfig, IndexConfig

DUMP = Path("dump")


@pytest.fixture(autouse=True)
def there_is_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text("url,caption\n")


def folder(tmp_path, captions="captions.csv"):
    """A folder without pictures."""
    (tmp_path / captions).write_text("file,caption\n")
    return str(tmp_path)


def test_columns_opt_outs_and_limits_reach_a_list():
    words = ["urls.url_column=link", "urls.blocked_domains=out.txt", "download.timeout_s=5", "download.schemes=[https]"]
    asked = asked_for("list.csv", DUMP, words, retry=True)
    urls, how = asked.source.urls, asked.download
    assert (Path(urls.path).name, urls.url_column, urls.caption_column) == ("list.csv", "link", "caption")
    assert (how.timeout_s, how.schemes, how.allow_private) == (5, ("https",), False)
    assert (how.min_success_fraction, how.blocked_domains) == (LEAST, "out.txt")


def test_batches_and_the_index_are_set_for_any_source():
    words = ["index.kind=ivf", "index.min_recall=0.5", "embed.batch_size=8", "embed.precision=bf16", "embed.workers=1"]
    asked = asked_for("/data/a.tar", DUMP, words, retry=False)
    assert asked.source.pattern == "/data/a.tar" and asked.index == IndexConfig(kind="ivf", min_recall=0.5)
    assert asked.embed == EmbedConfig(batch_size=8, precision="bf16", workers=1) and not asked.is_spread


def test_a_folder_s_columns_and_captions_are_set(tmp_path):
    words = [f"folder.captions={tmp_path}/other.csv", "folder.more_columns=[license]"]
    config = asked_for(folder(tmp_path, "other.csv"), DUMP, words, retry=False).source
    assert (config.captions, config.more_columns) == (f"{tmp_path}/other.csv", ("license",))


def test_a_cluster_is_asked_for_as_in_a_pipeline():
    asked = asked_for("a.tar", DUMP, ["runner.kind=dask", "runner.num_workers=2"], retry=False)
    assert asked.is_spread and (asked.runner.num_workers, asked.embed.workers) == (2, 0)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("urls.url_colum=link", "--set urls.url_colum: did you mean 'url_column'?"),
        ("download.timeout_s=0", "--set download.timeout_s: timeout_s must be > 0, got 0.0"),
        ("download.retries=many", "download.retries: input should be a valid integer"),
        ("embed.precision=fp8", "--set embed.precision: precision must be one of fp32, bf16, got 'fp8'"),
        ("pca.num_buckets=3", "it has embed, index, runner, urls, download"),
        ("timeout_s=3", "it has embed, index, runner, urls, download"),
        ("urls.path=b.csv", "--set urls.path has no effect: it is SOURCE"),
        ("urls={path: b.csv}", "--set urls must name a field: --set urls.FIELD=value"),
        ("folder.shard_size=3", "--set folder.shard_size has no effect: SOURCE is no folder"),
        ("index.kind=zip", "--set index.kind: kind must be one of auto, flat, ivf, ivf_hnsw, ivf_pq"),
        ("runner.kind=threads", "runner.num_workers is needed for kind 'threads' without an address"),
        ("runner={kind: threads, num_workers: 2}", "--set runner.kind must be here, dask or ray, got 'threads'"),
        ("runner={kind: ray, num_workers: 0}", "--set runner: runner.num_workers must be >= 1, got 0"),
        ("download.blocked_domains=x", "must be left to source.urls.blocked_domains, got 'x'"),
        ("download.blocked_urls=x", "must be left to source.urls.blocked_urls, got 'x'"),
        ("timeout_s", "--set must be stage.field=value, got 'timeout_s'"),
    ],
)
def test_a_setting_that_is_wrong_or_has_no_effect_is_refused(word, message):
    with pytest.raises(ValueError) as error:
        asked_for("list.csv", DUMP, [word], retry=False)
    assert message in str(error.value)


@pytest.mark.parametrize(("words", "retry"), [(["urls.shard_size=3"], False), ([], True)])
def test_what_is_said_of_a_list_has_no_effect_on_tars(words, retry):
    with pytest.raises(ValueError, match=r"^--(set urls.shard_size|retry) has no effect: SOURCE is no URL list$"):
        asked_for("a.tar", DUMP, words, retry)


def test_workers_of_a_cluster_start_no_others():
    words = ["runner={kind: dask, num_workers: 2}", "embed.workers=3"]
    with pytest.raises(ValueError, match=r"--set embed.workers must be 0 with runner.kind=dask"):
        asked_for("a.tar", DUMP, words, retry=False)


def test_a_folder_without_its_captions_is_told_the_setting(tmp_path):
    with pytest.raises(ValueError, match=rf"there is no file {tmp_path}/captions.csv; --set folder.captions=FILE"):
        asked_for(str(tmp_path), DUMP, [], retry=False)


def test_a_recall_has_no_effect_on_an_index_of_all_rows():
    with pytest.raises(ValueError, match=r"^--set index\.min_recall has no effect with index\.kind=flat"):
        asked_for("a.tar", DUMP, ["index.kind=flat", "index.min_recall=0.2"], False)


def test_a_list_that_is_not_there_is_told_as_source():
    with pytest.raises(ValueError, match=r"^SOURCE .*/missing\.csv: there is no such file$"):
        asked_for("missing.csv", DUMP, [], retry=False)
