"""Whatever is wrong with the input: one clear line, exit code 1 or 2, no half artifact."""

import csv
import errno
import io
import re
import shutil
import subprocess

import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from flows.cli import explained
from unclip.data.shards import sample_key
from unclip.store import Store


def lines(done):
    """What a command said on stderr."""
    return [line for line in done.stderr.splitlines() if line.strip()]


def refused(done, *parts, code=2):
    """Whether the command ended with that code, no traceback and a last line that says the parts."""
    is_plain = done.returncode == code and "Traceback" not in done.stderr and done.stdout == ""
    return is_plain and all(part in "".join(lines(done)[-1:]) for part in parts)


def is_clean(store):
    """Whether everything published is whole."""
    folders = [path for path in store.glob("artifacts/*/*") if path.is_dir()]
    return len(folders) == len(list(Store(store).artifacts()))


def source(**settings):
    (kind, values), *more = settings.items()
    sets = ["--set", "source={" + f"{kind}: {{{', '.join(f'{k}: {v!r}' for k, v in values.items())}}}" + "}"]
    return [*sets, *(word for name, value in more for word in ("--set", f"{name}={value}"))]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["shrunken", "--set", "embed.batch_sizee=3"], ["embed.batch_sizee", "did you mean 'batch_size'?"]),
        (["shrunken", "--set", "embed.batch_size=0"], ["embed", "batch_size must be >= 1, got 0"]),
        (["shrunken", "--set", "decoder.network.image_px=8"], ["low_px must be the decoder's image_px 8, got 16"]),
        (["shrunk"], ["shrunken.yaml has no pipeline 'shrunk'; it has shrunken"]),
        (["shrunken", "--until", "embedd"], ["--until must be one of", "got 'embedd'"]),
        (["shrunken", "--set", "filter"], ["--set must be stage.field=value, got 'filter'"]),
        (["shrunken", "--set", "seed=["], ["--set seed must be a value as YAML has it, got '['"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(unclip, arguments, parts):
    done = unclip("run", *arguments)
    assert refused(done, *parts) and len(lines(done)) == 1
    assert not unclip.store.exists()


@pytest.mark.parametrize("verb", [["verify"], ["gc"], ["lineage", "abcd"], ["metrics", "shrunken"], ["generate", "a"]])
def test_a_mistyped_store_is_named_and_not_made(unclip, verb):
    assert refused(unclip(*verb), f"{unclip.store} is no store", "--store names another")
    assert not unclip.store.exists()


@pytest.mark.parametrize("verb", ["metrics", "report", "funnel", "dropped"])
def test_a_name_without_runs_is_told_which_there_are_or_what_makes_one(unclip, verb):
    (unclip.store / "artifacts").mkdir(parents=True)
    assert refused(unclip(verb, "nope"), "holds no run of pipeline 'nope' or another; shrunken.yaml has shrunken")
    assert refused(unclip(verb, "shrunken"), "of pipeline 'shrunken' or another; `unclip run shrunken` makes one")


def test_an_error_without_words_says_what_it_means_and_where_it_was():
    with pytest.raises(AssertionError) as error:
        sample_key(0, -1)
    assert re.fullmatch(
        r"AssertionError: Assertion failed, at unclip/data/shards\.py:\d+ \(-v shows where\)", explained(error.value)
    )
    assert explained(TimeoutError()) == "TimeoutError: Timeout expired (-v shows where)"


def test_a_place_that_may_not_be_written_is_named():
    errors = [PermissionError(errno.EACCES, "?", "dump"), OSError(errno.EROFS, "?", "dump")]
    for error, words in zip(errors, ("permission denied", "read-only file system"), strict=True):
        assert explained(error) == f"dump: {words}: name another place, or allow it there"


def test_sizes_are_told_before_there_is_any_data(unclip):
    done = unclip("plan", "paper", "--file", "pipelines.yaml")
    assert done.returncode == 2 and "source.urls.path: no file urls.parquet" in done.stderr
    assert {"clip", "decoder", "upsampler_top"} <= {line.split()[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("empty.csv", "url,caption\n", "has no rows"),
        ("nothing.csv", "", "has no column 'url'"),
        ("column.csv", "url,text\nhttp://localhost/a.png,a\n", "has no column 'caption'; it has url, text"),
        ("broken.jsonl", '{"url": "http://localhost/a.png", "caption": "a"}\n{"url"\n', "broken.jsonl:2 is not JSON"),
        ("broken.parquet", "PAR1 not", "is not Parquet"),
    ],
)
def test_a_bad_list_is_refused_before_anything_starts(unclip, tmp_path, name, text, part):
    path = tmp_path / name
    path.write_text(text)
    done = unclip("run", "shrunken", *source(urls={"path": str(path)}, download="{}"))
    assert refused(done, str(path), part) and len(lines(done)) == 1
    assert not unclip.store.exists()


def write_folder(folder):
    """Three pictures, one of them none, and their captions."""
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (48, 48), (number * 90, 80, 20)).save(folder / f"{number}.png")
    (folder / "2.png").write_text("no picture at all")
    rows = [("file", "caption"), *((f"{number}.png", f"picture {number}") for number in range(3))]
    with open(folder / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return {"folder": str(folder), "captions": str(folder / "captions.csv")}


def test_a_caption_column_that_is_not_there(unclip, tmp_path):
    folder = write_folder(tmp_path / "photos") | {"caption_column": "text"}
    done = unclip("run", "shrunken", *source(folder=folder))
    assert refused(done, folder["captions"], "has no column 'text'; it has file, caption")


def test_an_image_that_is_none_is_refused_by_name_and_the_run_goes_on(unclip, tmp_path):
    folder = write_folder(tmp_path / "photos")
    done = unclip("run", "shrunken", "--until", "score", *source(folder=folder))
    assert done.returncode == 0, done.stderr
    (made,) = [a for a in Store(unclip.store).artifacts() if a.kind == "source"]
    assert made.manifest()["metrics"] == {"rows": 3, "kept": 2, "refused": {"undecodable": 1}}
    rows = pq.read_table(made.path / "rows.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok", "undecodable"] and "2.png" in rows[2]["detail"]


def test_a_broken_tar_is_named_and_what_was_whole_is_kept(unclip, tmp_path):
    whole = unclip("run", "shrunken", "--until", "source", "--set", "source.shapes.num_samples=20")
    assert whole.returncode == 0, whole.stderr
    (shard,) = Store(unclip.store).artifacts()
    data = (shard.path / "shard.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data)
    (tmp_path / "b.tar").write_bytes(data[: len(data) // 2])
    done = unclip("run", "shrunken", "--until", "score", *source(shards={"pattern": f"{tmp_path}/*.tar"}))
    assert refused(done, f"{tmp_path}/b.tar is not a whole tar")
    assert is_clean(unclip.store) and len([a for a in Store(unclip.store).artifacts() if a.kind == "source"]) == 2


@pytest.fixture
def trained(shared):
    """A store with a CLIP."""
    done = shared("run", "shrunken", "--until", "clip")
    assert done.returncode == 0, done.stderr
    return shared


def test_a_clip_below_the_gate_is_not_published(trained):
    done = trained("run", "shrunken", "--until", "clip", "--set", "clip.min_zero_shot=0.999")
    assert refused(done, "zero-shot accuracy on ", "clip.min_zero_shot is 0.999")
    assert is_clean(trained.store) and len(list(trained.store.glob("artifacts/clip/*"))) == 1


def test_a_search_with_another_clip_is_refused(trained, tmp_path):
    (clip,) = trained.store.glob("artifacts/clip/*")
    other = shutil.copytree(clip, tmp_path / "other")
    weights = load_file(clip / "weights.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, other / "weights.safetensors")
    write_folder(tmp_path / "photos")
    made = trained("embed", tmp_path / "photos", "--out", tmp_path / "dump", "--clip", clip)
    assert made.returncode == 0, made.stderr
    done = trained("search", tmp_path / "dump", "a picture", "--clip", other)
    assert refused(done, "was made with weights_digest", "the CLIP given has")


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 24 MB at the store's place."""
    folder = tmp_path / "store"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "unclip-test", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk of its own cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_said_and_leaves_nothing_half(unclip, tiny_disk):
    noise = io.BytesIO()
    Image.effect_noise((1024, 1024), 90).convert("RGB").save(noise, format="PNG")
    photos = tiny_disk.parent / "photos"
    write_folder(photos)
    for number in range(12):
        (photos / f"{number}.png").write_bytes(noise.getvalue())
    with open(photos / "captions.csv", "a") as file:
        file.writelines(f"{number}.png,noise {number}\n" for number in range(3, 12))
    folder = {"folder": str(photos), "captions": str(photos / "captions.csv"), "shard_size": 4}
    done = unclip("run", "shrunken", "--until", "score", *source(folder=folder))
    assert refused(done, "the disk is full", "make room and run again", code=1)
    assert is_clean(unclip.store)
