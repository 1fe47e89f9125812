import fcntl
import json
import time

import pytest

from unclip.lineage import ancestors, collect, differences, resolve, verify
from unclip.recipe import Recipe
from unclip.runs import begin_run, end_run, pending_note, save_run
from unclip.store import Build, Store


def make(store, kind, parents=(), **config):
    recipe = Recipe(stage=kind, config=config, inputs={p.kind: (p.digest,) for p in parents}, code="c", seed=0)

    def fill(out):
        (out / "data").write_text(f"{kind} {config}")
        return {}

    build = Build(kind=kind, recipe=recipe, parents={p.kind: (p.key,) for p in parents}, fill=fill)
    return store.build(build)[0]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_a_key_prefix_and_a_path_name_the_same_artifact(store):
    artifact = make(store, "pca")
    assert resolve(store, artifact.key[:10]) == resolve(store, str(artifact.path / "data")) == artifact.manifest()


@pytest.mark.parametrize("reference", ["zz", "abc", "0000000000", "nowhere.png"])
def test_a_reference_to_nothing_is_refused(store, reference):
    make(store, "pca")
    with pytest.raises(ValueError, match=reference):
        resolve(store, reference)


def test_lineage_reaches_the_source(store):
    source = make(store, "source")
    table = make(store, "embed", [source])
    top = make(store, "pca", [table, source])
    assert [m["kind"] for _, _, m in ancestors(store, top.manifest())] == ["pca", "embed", "source"]


def test_the_ledger_can_be_rebuilt_from_the_manifests(store):
    child = make(store, "embed", [make(store, "source")])
    before = store.ledger.matching(child.key)
    (store.root / "ledger.db").unlink()
    assert store.ledger.rebuild() == 2
    assert store.ledger.matching(child.key) == before


def test_verify_finds_a_byte_that_changed(store):
    artifact = make(store, "pca")
    assert list(verify(store)) == []
    (artifact.path / "data").write_text("pcb {}")
    assert [(kind, key) for kind, key, _ in verify(store)] == [("pca", artifact.key)]


def test_differences_are_told_by_path():
    assert list(differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})) == [("a.b", 1, 3)]


def test_collect_removes_only_what_no_kept_run_uses(store):
    old, new = make(store, "pca", num=1), make(store, "pca", num=2)
    run = begin_run("shapes", {})
    run.stages["pca"] = {"keys": [new.key]}
    end_run(store, run, "finished")
    assert [path for path, _ in collect(store, 1, dry_run=True)] == [old.path]
    list(collect(store, 1, dry_run=False))
    assert [a.key for a in store.artifacts()] == [new.key]


def ran(store, status="finished", **artifacts):
    """The record of a run that had these artifacts by stage."""
    run = begin_run("shapes", {})
    run.stages = {stage: {"keys": [artifact.key]} for stage, artifact in artifacts.items()}
    end_run(store, run, status)
    return run


def left(store):
    """Kinds and keys of what `collect` leaves of the artifacts if the last run is kept."""
    list(collect(store, 1, dry_run=False))
    return {a.key for a in store.artifacts()}


def test_collect_counts_only_finished_runs_that_had_the_stage(store):
    whole, new, unused = make(store, "pca"), make(store, "source", num=2), make(store, "source", num=3)
    ran(store, pca=whole, source=unused)
    ran(store, source=new)  # a run up to the source
    for _ in range(3):
        ran(store, "failed", source=new)
    assert left(store) == {whole.key, new.key}


def test_collect_keeps_what_the_newest_failed_run_has(store):
    old, new = make(store, "source", num=1), make(store, "source", num=2)
    ran(store, source=old)
    ran(store, "failed", source=new)
    assert left(store) == {old.key, new.key}


def test_collect_keeps_what_kept_artifacts_were_made_from(store):
    source = make(store, "source", num=1)
    stack = make(store, "assemble", [make(store, "embed", [source])])
    ran(store, assemble=stack)
    assert len(left(store)) == 3


def test_collect_leaves_what_is_being_built(store):
    (store.root / "partial" / "aa").mkdir(parents=True)
    with store.lock("aa"):
        assert list(collect(store, 1, dry_run=False)) == []
    assert list(collect(store, 1, dry_run=False)) == [(store.root / "partial" / "aa", 0)]


def test_collect_leaves_what_came_after_the_start_of_a_living_run(store):
    before = make(store, "pca", num=1)
    time.sleep(0.05)
    run = begin_run("shapes", {})
    save_run(store, run)
    time.sleep(0.05)
    after, note = make(store, "pca", num=2), pending_note(store.root, run.run_id)
    (store.root / "partial" / "aa").mkdir()
    note.parent.mkdir(parents=True)
    with open(note, "w") as held:  # as the run's process holds it
        fcntl.flock(held, fcntl.LOCK_EX)
        assert [path for path, _ in collect(store, 1, dry_run=True)] == [before.path]
    assert [path.name for path, _ in collect(store, 1, dry_run=True)] == [*sorted([before.key, after.key]), "aa"]


def test_verify_finds_a_recipe_that_is_not_the_keys(store):
    artifact = make(store, "pca", num=1)
    manifest = artifact.manifest()
    manifest["recipe"]["seed"] = 7
    (artifact.path / "manifest.json").write_text(json.dumps(manifest))
    assert list(verify(store)) == [("pca", artifact.key, "its recipe has another key")]
