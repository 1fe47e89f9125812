"""What is done with a dump, at the command line: every verb over one small store."""

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.unclip.data.data_fixtures import needs_tool
from tests.unclip.data.dump_fixtures import put, rewrite
from tests.unclip.data.web_server import Handler, serving

INDEX = "flat (360 rows, from 0 and below 100000), recall@1 1.000, @10 1.000"


@pytest.fixture(scope="module")
def dump(shared, tmp_path_factory):
    """A dump of the tars that a pipeline made, which is in the store as well."""
    ran = shared("run", "shrunken", "--until", "index", "--set", "clip.train.num_steps=5")
    assert ran.returncode == 0 and f"index: {INDEX}\n" in ran.stdout, ran.stdout + ran.stderr
    tars = tmp_path_factory.mktemp("tars")
    for number, shard in enumerate(sorted(shared.store.glob("artifacts/source/*/shard.tar"))):
        (tars / f"{number:05d}.tar").symlink_to(shard)
    done = shared("embed", tars / "*.tar", "--out", tars.parent / "dump", "--clip", "shrunken")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"360 rows in {tars.parent / 'dump'}, 2 of 2 parts embedded now\nindex: {INDEX}\n"
    return tars.parent / "dump"


def test_a_dump_and_its_pipeline_are_searched_alike_and_shown(shared, dump, tmp_path):
    words = ("a red circle", "-k", 3, "--json", "--sheet", tmp_path / "found.png")
    found = [json.loads(shared("search", name, *words).stdout) for name in (dump, "shrunken")]
    assert [hit["cosine"] for hit in found[0]] == pytest.approx([hit["cosine"] for hit in found[1]], abs=1e-5)
    assert len(found[0]) == 3 and Image.open(tmp_path / "found.png").size[0] > 500


def test_figures_and_verdict_fit_a_terminal(shared, dump):
    told = shared("inspect", dump)
    assert told.returncode == 0 and max(map(len, told.stdout.splitlines())) <= 80, told.stdout
    told_of = {line.split()[0] for line in told.stdout.splitlines() if line}
    assert {"rows", "origin", "similarity", "duplicates", "disk"} <= told_of
    assert f"index          {INDEX.partition(', recall')[0]} " in told.stdout
    done = shared("verify", dump, "--sample", 8)
    assert done.returncode == 0, done.stdout
    assert done.stdout == "360 rows in 2 parts, 8 embedded again: all as they must be\n"


def test_parts_that_go_are_told(shared, dump, tmp_path):
    first = dump.parent / "tars0" / "00000.tar"
    done = shared("embed", first, "--out", shutil.copytree(dump, tmp_path / "dump"), "--clip", "shrunken")
    assert done.stdout.splitlines()[0].endswith("0 of 1 parts embedded now, 1 dropped that SOURCE no longer has")


def test_another_index_is_asked_for_on_the_command_line(shared, dump, tmp_path):
    embed = (
        "embed",
        dump.parent / "tars0" / "*.tar",
        "--out",
        shutil.copytree(dump, tmp_path / "dump"),
        "--clip",
        "shrunken",
    )
    done = shared(*embed, "--set", "index.kind=ivf", "--set", "index.min_recall=0.2")
    first, second = done.stdout.splitlines()
    assert first.endswith("0 of 2 parts embedded now") and second.startswith("index: ivf (360 rows, ivf as set), ")
    assert "kind must be one of auto, flat" in shared(*embed, "--set", "index.kind=zip").stderr


def test_parts_of_other_libraries_are_named_by_every_verb(shared, dump, tmp_path):
    copy = shutil.copytree(dump, tmp_path / "dump")
    table = pq.read_table(copy / "parts/000001.parquet")
    older = table.schema.metadata | {b"versions": b'{"torch": "1.0"}'}
    pq.write_table(table.replace_schema_metadata(older), copy / "parts/000001.parquet")
    record = copy / "parts/000001.json"
    said = json.loads(record.read_text())
    record.write_text(json.dumps({name: said[name] for name in said if name != "sizes"}))  # else it is made again
    (copy / "manifest.json").unlink()
    done = shared("embed", dump.parent / "tars0" / "*.tar", "--out", copy, "--clip", "shrunken")
    assert re.search(r"^made with different versions: torch \S+ in part 0, 1.0 in part 1: ", done.stdout, re.MULTILINE)
    for verb in (("verify", copy, "--sample", 0), ("inspect", copy)):
        assert "1.0 in part 1" in shared(*verb).stdout


@needs_tool
def test_a_list_is_read_and_fetched_as_it_is_said(shared, dump, tmp_path):
    with serving() as server:
        Handler.asked.clear()  # the first to ask for busy.jpg is refused
        (tmp_path / "list.csv").write_text(f"link,caption,p\n{server}/plain.jpg,a,1\n{server}/busy.jpg,b,\n")
        where = (tmp_path / "list.csv", "--out", tmp_path / "dump", "--clip", "shrunken", "--json")
        words = ("urls.url_column=link", "urls.more_columns=[p]", "download.retries=0", "download.allow_private=true")
        sets = [part for word in words for part in ("--set", word)]
        first, again, later = (shared("embed", *where, *sets, *more) for more in ((), ("--retry",), ()))
    assert first.returncode == 0 and json.loads(first.stdout)["refused"] == {"http_503": 1}, first.stderr
    assert "1 of 1 parts are made anew: 1 for other fates of addresses and pictures" in again.stderr
    found = [json.loads(done.stdout) for done in (again, later)]
    assert [(one["rows"], one["refused"], one["embedded_shards"]) for one in found] == [(2, {}, 1), (2, {}, 0)]
    assert pq.read_table(tmp_path / "dump/parts/000000.rows.parquet")["more"].to_pylist() == [
        '{"p": "1"}',
        '{"p": null}',
    ]


def test_a_damaged_dump_is_exit_code_one_and_a_line_a_problem(shared, dump, tmp_path):
    whole = (dump / "parts/000001.parquet").read_bytes()
    rewrite(dump / "parts/000001.parquet", image_norm=put(3, 1.0))
    done = shared("verify", dump, "--sample", 0)
    (dump / "parts/000001.parquet").write_bytes(whole)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 3
    assert "parts/000001.parquet 00000100003: image_norm is 1, allowed: " in done.stdout


def test_out_and_in_again_is_a_dump_to_search(shared, dump, tmp_path):
    laid_out, back = tmp_path / "laid-out", tmp_path / "back"
    assert shared("export", dump, "--out", laid_out, "--layout", "clip-retrieval").returncode == 0
    made = shared("import", laid_out, "--out", back, "--clip", "shrunken")
    assert made.returncode == 0 and made.stdout == f"360 rows in {back}\n", made.stderr
    assert len(json.loads(shared("search", back, "a red circle", "-k", 4, "--json").stdout)) == 4
    shutil.rmtree(back / "clip")
    assert "holds no CLIP: give --clip, the one that made it" in shared("search", back, "a red circle").stderr
    bare = tmp_path / "bare"
    assert shared("import", laid_out, "--out", bare).returncode == 0
    found = shared("search", bare, "a red circle", "-k", 4, "--clip", "shrunken", "--json")
    assert found.returncode == 0 and len(json.loads(found.stdout)) == 4, found.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("search", "nothing", "a"), "nothing is no dump, and "),
        (("export", "dump", "--out", "x", "--layout", "zip"), "layout must be one of clip-retrieval, dense, got 'zip'"),
        (("verify", "--sample", "3"), "have no effect without a DUMP"),
        (("embed", "tars", "--out", "x", "--clip", "shrunken"), "tars0 is a folder of tars: give '"),
    ],
)
def test_a_wrong_word_is_one_line(shared, dump, words, part):
    places = {"dump": dump, "tars": dump.parent / "tars0"}
    done = shared(*(places.get(word, word) for word in words))
    assert done.returncode == 2 and part in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
