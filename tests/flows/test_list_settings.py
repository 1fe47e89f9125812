"""What `unclip embed` may be told of a URL list."""

from pathlib import Path

import pytest

from flows.list_settings import LEAST, list_settings, source_and_how
from unclip.data.config import ShardsConfig


def test_columns_opt_outs_and_limits_reach_a_list():
    words = ["urls.url_column=link", "urls.blocked_domains=out.txt", "download.timeout_s=5", "download.schemes=[https]"]
    urls, how = list_settings("list.csv", words, allow_private=True)
    assert (urls.path, urls.url_column, urls.caption_column) == ("list.csv", "link", "caption")
    assert (how.timeout_s, how.schemes, how.allow_private) == (5, ("https",), True)
    assert (how.min_success_fraction, how.blocked_domains) == (LEAST, "out.txt")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("urls.url_colum=link", "--set urls.url_colum embed.urls.url_colum: did you mean 'url_column'?"),
        ("download.timeout_s=0", "--set download.timeout_s embed.download: timeout_s must be > 0, got 0.0"),
        ("download.retries=many", "embed.download.retries: input should be a valid integer"),
        ("embed.batch_size=3", "embed.embed: it has urls, download"),
        ("timeout_s=3", "embed.timeout_s: it has urls, download"),
        ("urls.path=b.csv", "--set urls.path has no effect: SOURCE is the list"),
        ("urls={path: b.csv}", "--set urls must name a field: --set urls.FIELD=value"),
        ("download.allow_private=true", "say the same: leave one of them out"),
        ("download.blocked_domains=x", "must be left to source.urls.blocked_domains, got 'x'"),
        ("download.blocked_urls=x", "must be left to source.urls.blocked_urls, got 'x'"),
        ("timeout_s", "--set must be stage.field=value, got 'timeout_s'"),
    ],
)
def test_a_setting_that_is_wrong_or_has_no_effect_is_refused(word, message):
    with pytest.raises(ValueError) as error:
        list_settings("list.csv", [word], allow_private=True)
    assert message in str(error.value)


@pytest.mark.parametrize("options", [(["urls.shard_size=3"], False, False), ([], True, False), ([], False, True)])
def test_what_is_said_of_a_list_has_no_effect_on_tars(options):
    with pytest.raises(ValueError, match=r"^--\S+ has no effect: SOURCE is no URL list$"):
        source_and_how(ShardsConfig(pattern="a.tar"), Path("dump"), *options)
