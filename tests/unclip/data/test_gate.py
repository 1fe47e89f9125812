"""Facts about the gate that ends a hopeless download early."""

import pickle

import pytest

from unclip.data.config import DownloadConfig
from unclip.data.gate import Gate, TooFewSuccesses

CONFIG = DownloadConfig()  # half of the rows must come


def test_too_few_successes_name_both_shares_and_the_reasons():
    message = r"0\.5 is asked, 0\.00 is there \(0 of 3 rows; http_404 2, timeout 1\); http_404: it is gone"
    with pytest.raises(ValueError, match=message):
        Gate(CONFIG, 4, ["duplicate"]).judge(["http_404", "timeout", "http_404", "duplicate"])


@pytest.mark.parametrize("is_last, errors, stops", [(0, 5, False), (0, 6, True), (1, 5, True), (1, 4, False)])
def test_what_may_pass_counts_as_lost_in_the_last_pass_alone(is_last, errors, stops):
    gate = Gate(CONFIG, 12, ["malformed", "duplicate", "duplicate"])  # five of ten rows must come
    texts = ["", *["HTTP Error 404: Not Found"] * (errors - 1), "timed out"]
    if not stops:
        return gate.check(texts, bool(is_last))
    with pytest.raises(TooFewSuccesses, match=r"at most 0\.40 can still be: stopped before the rest was fetched"):
        gate.check(texts, bool(is_last))


@pytest.mark.parametrize("shard, rows, is_judged", [(0, 1, True), (7, 1, False), (7, 99, False), (7, 100, True)])
def test_a_few_rows_at_the_end_of_a_list_fail_no_run(shard, rows, is_judged):
    gate = Gate(CONFIG, rows + 1, ["duplicate"], shard)
    if not is_judged:
        return gate.judge(["http_404"] * rows)
    with pytest.raises(TooFewSuccesses):
        gate.judge(["http_404"] * rows)


def test_the_gate_s_error_survives_a_way_between_processes():
    sent = pickle.loads(pickle.dumps(TooFewSuccesses("too few", {"dns": 3})))  # noqa: S301
    assert (str(sent), sent.counts) == ("too few", {"dns": 3})
