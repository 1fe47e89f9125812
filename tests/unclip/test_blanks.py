"""Empty databases, kept once and copied into new stores."""

import os
import sqlite3
from contextlib import closing

import pytest

from unclip.blanks import adopt_blank, keep_blank
from unclip.mlflow_view import MlflowView


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "unclip"


def write(text):
    return lambda path: path.write_text(text)


def test_a_new_store_gets_a_copy_and_an_old_one_keeps_its_own(tmp_path, cache):
    new, old = tmp_path / "new.db", tmp_path / "old.db"
    old.write_text("its own")
    assert not adopt_blank(new, "mlflow") and not new.exists()
    keep_blank("mlflow", write("empty"))
    assert adopt_blank(new, "mlflow") and new.read_text() == "empty"
    assert adopt_blank(old, "mlflow") and old.read_text() == "its own"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "new.db", "old.db"]


def test_a_database_that_another_command_made_meanwhile_stays(tmp_path, cache, monkeypatch):
    keep_blank("mlflow", write("empty"))
    link = os.link

    def late(source, target):
        target.write_text("of another")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert adopt_blank(tmp_path / "new.db", "mlflow") and (tmp_path / "new.db").read_text() == "of another"


def test_a_disk_without_links_gets_a_copy_too(tmp_path, cache, monkeypatch):
    def refuse(source, target):
        raise PermissionError

    keep_blank("mlflow", write("empty"))
    monkeypatch.setattr(os, "link", refuse)
    assert adopt_blank(tmp_path / "new.db", "mlflow") and (tmp_path / "new.db").read_text() == "empty"


def test_a_cache_that_cannot_be_written_is_said_and_no_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_blank("mlflow", lambda path: pytest.fail("there is nowhere to write"))
    assert "no empty database of mlflow kept" in capsys.readouterr().err


def test_what_cannot_be_written_leaves_nothing(cache):
    def fail(path):
        raise RuntimeError("no migration")

    keep_blank("mlflow", fail)
    assert list(cache.iterdir()) == []


def test_a_copy_of_mlflows_database_knows_no_other_place(tmp_path, cache):
    MlflowView(tmp_path / "first")
    view = MlflowView(tmp_path / "second")
    with closing(sqlite3.connect(next(cache.glob("mlflow-*.db")))) as blank:
        assert blank.execute("SELECT count(*) FROM experiments").fetchone() == (0,)
    run, stages = view.open_run("r", "shapes", "2026-01-01T00:00:00+00:00", {"a": 1})
    assert stages == {} and str(tmp_path / "second") in view.client.get_run(run).info.artifact_uri
