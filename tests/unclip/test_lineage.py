import pytest

from unclip.lineage import ancestors, collect, differences, resolve, verify
from unclip.recipe import Recipe
from unclip.runs import begin_run, end_run
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
