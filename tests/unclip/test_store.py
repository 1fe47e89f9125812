import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from unclip.recipe import Recipe
from unclip.store import Build, Store, write_atomically


def recipe(**config):
    return Recipe(stage="pca", config=config, inputs={"embed": ("a" * 64,)}, code="c" * 64, seed=0)


def build(fill, resumes=False, **config):
    return Build(kind="pca", recipe=recipe(**config), fill=fill, resumes=resumes)


def write_hello(out):
    (out / "hello.txt").write_text("hello")
    return {"words": 1}


def test_a_second_build_finds_the_first(tmp_path):
    store = Store(tmp_path)
    first, made = store.build(build(write_hello))
    second, made_again = store.build(build(write_hello))
    assert (made, made_again) == (True, False)
    assert first == second
    assert second.manifest()["metrics"] == {"words": 1}


def test_a_failed_build_leaves_no_artifact(tmp_path):
    def fail(out):
        write_hello(out)
        raise ValueError("no")

    store = Store(tmp_path)
    with pytest.raises(ValueError, match="no"):
        store.build(build(fail))
    assert list(store.artifacts()) == []
    assert store.build(build(write_hello))[1]


def test_a_build_starts_in_an_empty_folder_unless_it_resumes(tmp_path):
    seen = []

    def leave(out):
        seen.append(sorted(p.name for p in out.iterdir()))
        (out / "left").write_text("x")
        raise RuntimeError("killed")

    store = Store(tmp_path)
    for resumes in (False, True, True, False):
        with pytest.raises(RuntimeError):
            store.build(build(leave, resumes))
    assert seen == [[], [], ["left"], []]


def test_a_build_killed_before_its_rename_is_only_published(tmp_path):
    store = Store(tmp_path)
    artifact, _ = store.build(build(write_hello))
    partial = tmp_path / "partial" / artifact.key
    artifact.path.rename(partial)  # as it lies when the manifest is written and the rename not done
    (partial / "work").mkdir()
    published, made = store.build(build(lambda out: pytest.fail("built again")))
    assert made and published == artifact and not (artifact.path / "work").exists()


def test_what_only_going_on_needs_is_not_published(tmp_path):
    def fill(out):
        (out / "work").mkdir()
        (out / "work" / "checkpoint").write_text("half way")
        return write_hello(out)

    artifact, _ = Store(tmp_path).build(build(fill))
    assert sorted(path.name for path in artifact.path.iterdir()) == ["hello.txt", "manifest.json"]
    assert list(artifact.manifest()["files"]) == ["hello.txt"]


def test_an_artifact_with_a_file_cut_short_is_not_found(tmp_path):
    store = Store(tmp_path)
    artifact, _ = store.build(build(write_hello))
    (artifact.path / "hello.txt").write_text("hel")
    assert store.find("pca", artifact.key) is None
    rebuilt, made = store.build(build(write_hello))
    assert made and rebuilt.digest == artifact.digest


def test_the_same_bytes_have_the_same_digest_whatever_made_them(tmp_path):
    store = Store(tmp_path)
    one, _ = store.build(build(write_hello, num_components=1))
    two, _ = store.build(build(write_hello, num_components=2))
    assert one.key != two.key and one.digest == two.digest


def _build_slowly(root, marks):
    def fill(out):
        with open(marks, "a") as handle:
            handle.write("x")
        time.sleep(0.5)
        return write_hello(out)

    Store(root).build(build(fill))


def test_two_builders_do_the_work_once(tmp_path):
    context = multiprocessing.get_context("fork")
    builders = [context.Process(target=_build_slowly, args=(tmp_path, tmp_path / "marks")) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert (tmp_path / "marks").read_text() == "x"


def test_the_lock_of_a_killed_builder_is_taken_over(tmp_path):
    builder = multiprocessing.get_context("fork").Process(target=_build_slowly, args=(tmp_path, tmp_path / "marks"))
    builder.start()
    while not (tmp_path / "marks").exists():
        time.sleep(0.01)
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert list(Store(tmp_path).artifacts()) == []
    assert Store(tmp_path).build(build(write_hello))[1]


def _build_killed_at_its_manifest(root):
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    Store(root).build(build(write_hello, resumes=True))


def test_a_manifest_half_written_is_no_content_of_the_next_build(tmp_path):
    builder = multiprocessing.get_context("fork").Process(target=_build_killed_at_its_manifest, args=(tmp_path,))
    builder.start()
    builder.join()
    assert builder.exitcode == -signal.SIGKILL
    artifact, _ = Store(tmp_path).build(build(write_hello, resumes=True))
    assert sorted(path.name for path in artifact.path.iterdir()) == ["hello.txt", "manifest.json"]
    assert list(artifact.manifest()["files"]) == ["hello.txt"]


@pytest.mark.parametrize("damaged", ["", "{", "\0"])
def test_an_artifact_with_a_damaged_manifest_is_made_again(tmp_path, damaged):
    store = Store(tmp_path)
    artifact, _ = store.build(build(write_hello))
    (artifact.path / "manifest.json").write_text(damaged)
    assert store.find("pca", artifact.key) is None and list(store.artifacts()) == []
    assert store.ledger.rebuild() == 0
    assert store.build(build(write_hello)) == (artifact, True)


def test_two_threads_may_write_the_same_file(tmp_path):
    path = tmp_path / "run.json"
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda number: write_atomically(path, str(number)), range(50)))
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_key_at_work_is_not_ours(tmp_path):
    store = Store(tmp_path)
    with store.lock("a"), store.lock("a", wait=False) as same, store.lock("b", wait=False) as other:
        assert (same, other) == (False, True)
    with store.lock("a", wait=False) as free:
        assert free
