"""What `unclip embed --set` may say."""

from pathlib import Path

import pytest

from flows.embed_settings import LEAST, embed_config, settings_of
from tasks.dump import dump_source
from unclip.data.config import IndexConfig, ShardsConfig, UrlsConfig


def test_columns_opt_outs_and_limits_reach_a_list():
    words = ["urls.url_column=link", "urls.blocked_domains=out.txt", "download.timeout_s=5", "download.schemes=[https]"]
    there, how, index = settings_of(UrlsConfig(path="list.csv"), Path("dump"), [*words, "index.kind=ivf"], retry=True)
    assert (there.urls.path, there.urls.url_column, there.urls.caption_column) == ("list.csv", "link", "caption")
    assert (how.timeout_s, how.schemes, how.allow_private, index.kind) == (5, ("https",), False, "ivf")
    assert (how.min_success_fraction, how.blocked_domains) == (LEAST, "out.txt")


def test_an_index_is_set_for_any_source():
    tars = ShardsConfig(pattern="a.tar")
    there, _, index = settings_of(tars, Path("dump"), ["index.kind=ivf", "index.min_recall=0.5"], retry=False)
    assert there is tars and index == IndexConfig(kind="ivf", min_recall=0.5)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("urls.url_colum=link", "--set urls.url_colum: did you mean 'url_column'?"),
        ("download.timeout_s=0", "--set download.timeout_s embed.download: timeout_s must be > 0, got 0.0"),
        ("download.retries=many", "--set download.retries: input should be a valid integer"),
        ("embed.batch_size=3", "--set embed.batch_size embed.embed: it has index, urls, download"),
        ("timeout_s=3", "--set timeout_s: it has index, urls, download"),
        ("urls.path=b.csv", "--set urls.path has no effect: SOURCE is the list"),
        ("urls={path: b.csv}", "--set urls must name a field: --set urls.FIELD=value"),
        (
            "index.kind=zip",
            "--set index.kind embed.index: kind must be one of auto, flat, ivf, ivf_hnsw, ivf_pq",
        ),
        ("download.blocked_domains=x", "must be left to source.urls.blocked_domains, got 'x'"),
        ("download.blocked_urls=x", "must be left to source.urls.blocked_urls, got 'x'"),
        ("timeout_s", "--set must be stage.field=value, got 'timeout_s'"),
    ],
)
def test_a_setting_that_is_wrong_or_has_no_effect_is_refused(word, message):
    with pytest.raises(ValueError) as error:
        settings_of(UrlsConfig(path="list.csv"), Path("dump"), [word], retry=False)
    assert message in str(error.value)


@pytest.mark.parametrize(("words", "retry"), [(["urls.shard_size=3"], False), ([], True)])
def test_what_is_said_of_a_list_has_no_effect_on_tars(words, retry):
    with pytest.raises(ValueError, match=r"^--(set urls.shard_size|retry) has no effect: SOURCE is no URL list$"):
        settings_of(ShardsConfig(pattern="a.tar"), Path("dump"), words, retry)


def test_a_wrong_precision_is_said_of_the_option():
    with pytest.raises(ValueError, match=r"^--precision must be one of fp32, bf16, got 'fp8'$"):
        embed_config(4, "fp8", 0)


@pytest.mark.parametrize("captions", [None, "other.csv"])
def test_a_folder_without_its_captions_is_told_the_option(tmp_path, captions):
    expected = f"^--captions must be a CSV file .*: there is no file {captions or tmp_path / 'captions.csv'}$"
    with pytest.raises(ValueError, match=expected):
        dump_source(str(tmp_path), captions)


def test_a_recall_has_no_effect_on_an_index_of_all_rows():
    with pytest.raises(ValueError, match=r"^--set index\.min_recall has no effect with index\.kind=flat"):
        settings_of(ShardsConfig(pattern="a.tar"), Path("dump"), ["index.kind=flat", "index.min_recall=0.2"], False)
