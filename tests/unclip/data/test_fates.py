"""Facts about what becomes of a row of a URL list, and the advice on it."""

import re
from pathlib import Path

import pytest

from tests.unclip.data import web_server as web
from unclip.data.advice import ADVICE, advice_on
from unclip.data.config import DownloadConfig
from unclip.data.fates import PASSING, PATTERNS, may_pass, status_of
from unclip.data.urls import REFUSALS
from unclip.recipe import NEUTRAL_MODULES, code_modules


def test_errors_are_sorted_by_whether_they_may_pass():
    texts = ["HTTP Error 404: Not Found", "HTTP Error 503: Busy", "[Errno -2] Name or service not known", "timed out"]
    texts += ["no request ended for download.stall_s = 60 s", "certificate has expired"]
    statuses = [status_of(text) for text in texts]
    assert statuses == ["http_404", "http_503", "dns", "timeout", "unfinished", "tls"]
    assert [may_pass(status) for status in statuses] == [False, True, True, True, True, False]


@pytest.mark.parametrize("status", [status for _, status in PATTERNS] + list(REFUSALS) + list(web.FATES.values()))
def test_every_status_has_its_own_advice(status):
    assert status == "failed" or advice_on(status) != advice_on("failed")
    assert len(advice_on(status).meaning) <= 40


@pytest.mark.parametrize("page", ["download.md", "dumps.md"])
def test_the_pages_name_what_is_asked_again(page):
    text = (Path(__file__).parents[3] / "docs" / page).read_text()
    (named,) = [part for part in re.findall(r"may pass\b([^.]*)\.", text) if "`dns`" in part]
    assert set(re.findall(r"`(\w+)`", named)) - {"retries"} == {*PASSING, "http_5xx"}


def test_the_advice_and_the_page_name_what_ends_a_shard():
    page = (Path(__file__).parents[3] / "docs" / "download.md").read_text()
    for name in ("deadline_s", "stall_s"):
        assert name in ADVICE["unfinished"].meaning and f"`{name}` ({getattr(DownloadConfig(), name):g})" in page


def test_other_words_of_advice_fetch_nothing_again():
    modules = code_modules(("tasks.download",))
    assert {"unclip.data.advice", "unclip.data.fates"} <= modules and "unclip.data.advice" in NEUTRAL_MODULES


def test_codes_without_advice_of_their_own_have_that_of_their_kind():
    assert advice_on("http_503") == advice_on("http_500") == ADVICE["http_5xx"]
    assert advice_on("http_418") == ADVICE["http_4xx"] and advice_on("http_999") == ADVICE["http"]
