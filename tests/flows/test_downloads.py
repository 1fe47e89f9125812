"""A URL list fetched, looked at, and its refused rows fetched again, over a real server."""

import json
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app, load_verbs
from flows.downloads import downloads, fates_table, summary
from flows.execute import Execution
from flows.graph import open_graph
from flows.plan import plan
from flows.retries import add_retries, fetched
from tasks.context import Context
from tasks.filter import refused_steps
from tests.unclip.data import web_server as web
from tests.unclip.data.data_fixtures import needs_tool
from unclip.data.dropped import Losses
from unclip.data.gate import TooFewSuccesses
from unclip.data.rows import read_rows
from unclip.data.shards import ShardReader

ROOT = Path(__file__).parents[1]
NAMES = ["plain.jpg", "busy.jpg", "gone.jpg", "plain.png", "status-429", "wide.png"]

pytestmark = needs_tool


class Site:
    """A server, the list of its pictures, and a store."""

    more: ClassVar[list[str]] = []

    def __init__(self, folder, url):
        self.folder, self.url = folder, url

    def write(self, names):
        rows = "".join(f"{self.url}/{name},{name}\n" for name in names)
        (self.folder / "list.csv").write_text("url,caption\n" + rows)

    def settings(self, **download):
        download = {"allow_private": True, "retries": 0, "min_success_fraction": 0.1, "num_processes": 1} | download
        source = f"source={{urls: {{path: '{self.folder / 'list.csv'}', shard_size: 3, more_columns: {self.more}}}}}"
        return source, f"download={download}"

    def graph(self, **download):
        return open_graph(ROOT / "shrunken.yaml", "shrunken", self.folder / "store", self.settings(**download))

    def run(self, **download):
        """Fetches what is not there; the graph, and how many shards were made."""
        graph, built = self.graph(**download), []
        execution = Execution(graph, [])
        for stage in graph.stages()[:2]:
            built.append(sum(step.found is None for step in graph.steps(stage, execution.made)))
            execution.build(stage)
        return graph, built


@pytest.fixture(scope="module")
def server():
    with web.serving() as address:
        yield address


@pytest.fixture
def site(tmp_path, server):
    web.Handler.asked.clear()
    site = Site(tmp_path, server)
    site.write(NAMES)
    return site


@pytest.fixture(scope="module")
def retried(tmp_path_factory, server):
    """A site whose refused rows were asked again, for tests that only look at it: the site and its graph."""
    web.Handler.asked.clear()
    site = Site(tmp_path_factory.mktemp("retried"), server)
    site.write(NAMES)
    graph, built = site.run()
    assert built == [2, 2] and downloads(graph).refused == {"http_503": 1, "http_404": 1, "http_429": 1}
    assert add_retries(graph, ["http_5xx", "http_429"], {"num_threads": 1}) == (
        [900000],
        Counter({"http_503": 1, "http_429": 1}),
    )
    again, built = site.run()
    assert built == [1, 1] and again.stages()[1].name == "download"
    return site, again


def test_refused_rows_come_back_as_a_further_shard_with_their_sample_ids(retried):
    _, graph = retried
    rows = [row for artifact in fetched(graph) for row in read_rows(artifact.path / "rows.parquet")]
    busy = [row for row in rows if row.caption == "busy.jpg"]
    assert [(row.status, row.key) for row in busy] == [("http_503", None), ("ok", "90000000000")]
    assert busy[0].sample_id == busy[1].sample_id


def test_a_row_that_was_asked_again_counts_for_its_last_fate(retried, tmp_path):
    site, graph = retried
    found = downloads(graph)
    assert (found.rows, found.ok, found.refused, found.retried) == (6, 4, {"http_404": 1, "http_429": 1}, 2)
    shutil.copytree(site.folder, tmp_path / "copy")
    again = Site(tmp_path / "copy", site.url).graph()
    assert add_retries(again, [], {})[1] == Counter({"http_429": 1})  # what failed twice, and nothing that came


def test_a_retry_stands_where_its_rows_shards_are_as_they_were(retried, tmp_path):
    site, graph = retried
    shutil.copytree(site.folder, tmp_path / "copy")
    copy = Site(tmp_path / "copy", site.url)
    add_retries(copy.graph(), [], {})  # of what failed in the first retry too: it stands no longer once that is another
    copy.write([*NAMES[:3], "plain.png", "wide.png"])  # shard 1 is another: its refusal does not stand, that of 0 does
    changed = copy.graph()
    assert [shard.origins for shard in changed.retries] == [(0,)] and downloads(changed).void_retries == 1
    assert len(changed.sources) == 3 and changed.sources[0] == graph.sources[0]


def test_a_retry_adds_a_shard_to_the_plan_and_takes_none_away(site):
    graph, _ = site.run()
    assert all(one.num_missing == 0 for one in plan(graph, "download"))
    add_retries(graph, ["http_5xx"], {})
    plans = plan(site.graph(), "score")
    assert [(one.stage, one.num_found, one.num_missing) for one in plans[:2]] == [("source", 2, 1), ("download", 2, 1)]
    assert plans[1].why == "input source is to be made" and (plans[2].num_missing, plans[3:]) == (3, [])
    found = downloads(site.graph())
    assert (found.num_fetched, found.num_shards, found.rows) == (2, 3, 6)
    assert summary("x", found).endswith("\nthe rest is fetched by: unclip run x --until download")  # a retry is refused


def test_the_retry_that_is_advised_works_as_it_stands(site):
    site.write(["plain.jpg", "gone.jpg", "status-429"])
    site.run(timeout_s=3)
    settings = [f"--set={one}" for one in site.settings(timeout_s=3)]
    where = ["--file", str(ROOT / "shrunken.yaml"), "--store", str(site.folder / "store")]
    load_verbs()
    said = CliRunner().invoke(app, ["downloads", "shrunken", *settings, *where]).stdout
    advised = shlex.split(said.rpartition("may pass: unclip ")[2])
    assert advised[:2] == ["retry", "shrunken"] and advised[-2:] == ["--status", "http_429"]
    assert json.loads(CliRunner().invoke(app, [*advised, "--json"]).stdout)["rows"] == {"http_429": 1}


def test_a_row_that_was_asked_again_has_its_further_columns(site):
    site.more = ["punsafe"]
    (site.folder / "list.csv").write_text(
        f"url,caption,punsafe\n{site.url}/gone.jpg,a,0.1\n{site.url}/busy.jpg,b,0.7\n"
    )
    graph, _ = site.run(min_success_fraction=0)
    add_retries(graph, ["http_5xx"], {})
    again, _ = site.run(min_success_fraction=0)
    shard = ShardReader(fetched(again)[1].path / "shard.tar")
    assert [(shard.caption(0), shard.meta(0)["punsafe"]), len(shard)] == [("b", "0.7"), 1]


def test_a_list_s_own_scores_select_its_rows(site):
    site.more = ["punsafe"]
    rows = [("plain.jpg", "0.1"), ("plain.png", "0.9"), ("wide.png", "")]
    lines = "".join(f"{site.url}/{name},a picture,{score}\n" for name, score in rows)
    (site.folder / "list.csv").write_text(f"url,caption,punsafe\n{lines}")
    settings = (*site.settings(), "filter={max_unsafe: 0.5, max_aspect: null, min_std: 0, min_side_px: 1}")
    graph = open_graph(ROOT / "shrunken.yaml", "shrunken", site.folder / "store", settings)
    execution = Execution(graph, [])
    for stage in graph.stages("filter"):
        execution.build(stage)
    dropped = pq.read_table(execution.made["filter"][0].path / "dropped.parquet").to_pylist()
    assert [(row["key"][-1], row["reason"], row["detail"]) for row in dropped] == [
        ("1", "unsafe", "0.900"),
        ("2", "unsafe", "no score"),
    ]


def test_a_row_that_was_asked_again_is_lost_once_or_not_at_all(site):
    graph, _ = site.run()
    add_retries(graph, ["http_5xx", "http_429"], {})
    shards = fetched(site.run()[0])
    ctx = Context(stage="filter", config=None, inputs={"shards": shards}, out=site.folder, seed=0, shard=None)
    steps, losses = refused_steps(ctx), Losses.of(shards, {})
    kept = sum(artifact.manifest()["metrics"]["kept"] for artifact in shards)
    assert (steps[0].rows_in, sum(step.dropped for step in steps), kept) == (6, 2, 4)
    assert Counter(row.reason for row in losses.rows()) == {step.reason: step.dropped for step in steps}
    assert [row.caption for row in losses.rows("http_429")] == ["status-429"]


def test_a_retry_stands_only_for_what_was_fetched_then(site):
    graph, _ = site.run()
    first = fetched(graph)[0]
    add_retries(graph, ["http_5xx"], {})
    assert [one.origins for one in site.graph().retries] == [(0,)]
    shutil.rmtree(first.path)
    assert site.graph().retries == []  # its rows are asked with their shard
    again, _ = site.run()  # and this time busy.jpg comes
    assert fetched(again)[0].key == first.key and fetched(again)[0].digest != first.digest
    assert site.graph().retries == [] and downloads(site.graph()).rows == 6


@pytest.fixture(scope="module")
def shared(tmp_path_factory, server):
    """A site that is fetched, for tests that only look at it or add retries."""
    site = Site(tmp_path_factory.mktemp("shared"), server)
    site.write(["plain.jpg", "gone.jpg"])
    site.run()
    return site


def test_other_settings_fetch_all_again_and_no_retry_stands(shared, tmp_path):
    shutil.copytree(shared.folder, tmp_path / "copy")
    copy = Site(tmp_path / "copy", shared.url)
    assert add_retries(copy.graph(), ["http_404", "timeout", "http_5xx"], {})[1] == {"http_404": 1}
    assert len(copy.graph().sources) == 2
    other = copy.graph(timeout_s=5)
    assert (other.retries, len(other.sources)) == ([], 1)
    assert "of retries, 1 no longer stand" in summary("shrunken", downloads(other))


@pytest.mark.parametrize(
    ("download", "status", "settings", "message"),
    [
        ({"timeout_s": 7}, "timeout", {}, "1 of 1 shards are still to be fetched: `unclip run shrunken --until"),
        ({}, "timeout", {}, "refused as timeout; there are http_404"),
        ({}, "http_4o4", {}, "refused as http_4o4; there are http_404"),
        ({}, "duplicate", {}, "refused as duplicate; there are http_404"),
        ({}, "http_404", {"timeout": 3}, "--with timeout: download has no such setting"),
        ({}, "http_404", {"max_side_px": 8}, "--with max_side_px must be at least the pipeline's"),
    ],
)
def test_a_retry_says_what_it_cannot_fetch(shared, download, status, settings, message):
    with pytest.raises(ValueError, match=message):
        add_retries(shared.graph(**download), [status], settings)


def test_a_hopeless_run_stops_at_its_first_shard_and_says_what_came_of_it(site):
    site.write(["gone.jpg", "page.html", "status-403", *NAMES])
    with pytest.raises(TooFewSuccesses, match=r"stopped before the rest was fetched .* of 3 rows"):
        site.run(min_success_fraction=0.5)
    found = downloads(site.graph(min_success_fraction=0.5))
    assert (found.num_fetched, found.num_shards) == (0, 3) and web.Handler.asked["/plain.jpg"] == 0
    said = summary("x", found, " --set a=b")
    assert found.failed["http_404"] == 1 and "the next shard failed, too few rows came" in said
    assert said.endswith(
        "lower download.min_success_fraction; the rest is fetched by: unclip run x --set a=b --until download"
    )


def test_a_single_bad_row_in_the_last_shard_fails_no_run(site):
    site.write(["plain.jpg", "plain.png", "wide.png", "gone.jpg"])
    found = downloads(site.run(min_success_fraction=0.9)[0])
    assert (found.num_fetched, found.ok, found.refused) == (2, 3, {"http_404": 1})


def test_the_verbs_answer_in_json(shared, tmp_path):
    shutil.copytree(shared.folder, tmp_path / "copy")
    settings = [f"--set={one}" for one in Site(tmp_path / "copy", shared.url).settings()]
    where = ["shrunken", "--json", "--file", str(ROOT / "shrunken.yaml"), "--store", str(tmp_path / "copy" / "store")]
    load_verbs()
    said = CliRunner().invoke(app, ["downloads", *where, *settings])
    assert json.loads(said.stdout)["refused"]["http_404"]["advice"] == "drop the rows from the list"
    said = CliRunner().invoke(app, ["retry", *where, *settings, "--status=http_4xx", "--with=timeout_s=9"])
    assert json.loads(said.stdout) == {"shards": [900000], "rows": {"http_404": 1}}
    (retry,) = Site(tmp_path / "copy", shared.url).graph().retries
    assert (retry.download.timeout_s, retry.download.min_success_fraction) == (9, 0)


def test_every_refusal_is_a_line_of_advice():
    lines = fates_table({"dns": 3, "http_429": 1200})
    assert [next(iter(column.cells)) for column in lines.columns[:2]] == ["http_429", "1,200"]
    assert "lower num_threads" in next(iter(lines.columns[2].cells))
