"""Facts about a dump whose source, or whose own files, change or go away."""

import csv
import json
from dataclasses import replace

import pytest

from tests.unclip.data.data_fixtures import TinyEncoder, sample, write_source
from tests.unclip.data.dump_fixtures import clip_folder, embed_dump, folder_dump, quiet, verified
from unclip.data.config import FolderConfig, ShardsConfig
from unclip.data.crops import Crop
from unclip.data.dump import part_paths
from unclip.data.dump_shards import dump_shards
from unclip.data.table import read_part


class Meddling(TinyEncoder):
    """Does something the first time that it encodes."""

    def __init__(self, meddle):
        super().__init__()
        self.meddle = [meddle]

    def encode_image(self, pixels):
        while self.meddle:
            self.meddle.pop()()
        return super().encode_image(pixels)


def photos(tmp_path, count=4):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(sample(number).image)
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "caption"), *((f"{i}.png", f"picture {i}") for i in range(count))])
    return FolderConfig(folder=str(folder), captions=str(folder / "captions.csv"), shard_size=2)


def embed(source, tmp_path, encoder=None):
    return embed_dump(source, tmp_path / "dump", encoder or TinyEncoder(), clip_folder(tmp_path / "clip"), 4, quiet)


def test_pictures_that_were_away_for_a_while_are_not_lost(tmp_path):
    source, there, away = photos(tmp_path), tmp_path / "photos" / "0.png", tmp_path / "away.png"
    with pytest.raises(ValueError, match=r"^SOURCE changed while it was being read: run again for shard 0$"):
        embed(source, tmp_path, Meddling(lambda: there.rename(away)))
    away.rename(there)
    made = embed(source, tmp_path)
    assert (made["rows"], made["refused"], made["embedded_shards"]) == (4, {}, 1) and verified(tmp_path / "dump") == []


class Moving(Crop):
    """Moves a file away when the first picture is cropped."""

    moves = ()

    def __call__(self, image):
        for here, there in self.moves:
            if here.exists():
                here.rename(there)
        return super().__call__(image)


def test_pictures_that_were_away_and_came_back_are_not_lost(tmp_path):
    source, there, away = photos(tmp_path), tmp_path / "photos" / "1.png", tmp_path / "away.png"
    encoder = Meddling(lambda: away.rename(there))
    encoder.crop = Moving(px=16)
    Moving.moves = [(there, away)]
    whole = replace(source, shard_size=4)
    with pytest.raises(ValueError, match="run again for shard 0"):
        embed(whole, tmp_path, encoder)
    assert there.is_file() and (embed(whole, tmp_path)["rows"], embed(whole, tmp_path)["refused"]) == (4, {})


def test_a_tar_that_changes_while_it_is_read_is_no_part(tmp_path):
    tar = write_source(tmp_path / "s0", [sample(i) for i in range(4)]) / "shard.tar"
    other = write_source(tmp_path / "other", [sample(i, seed=50 + i) for i in range(4)]) / "shard.tar"
    with pytest.raises(ValueError, match=r"run again for shard\.tar$"):
        embed(ShardsConfig(pattern=str(tar)), tmp_path, Meddling(lambda: other.replace(tar)))
    assert not list((tmp_path / "dump" / "parts").glob("*.json"))


def test_a_tar_that_comes_meanwhile_moves_none(tmp_path):
    for name in ("b", "c"):
        write_source(tmp_path / name, [sample(0)])
    shards = dump_shards(ShardsConfig(pattern=str(tmp_path / "?" / "shard.tar")))
    write_source(tmp_path / "a", [sample(1)])
    assert [shard.open_listing().path.parent.name for shard in shards] == ["b", "c"]


def test_a_tar_of_another_name_is_another_for_samples_are_known_by_it(tmp_path):
    tar = write_source(tmp_path / "s0", [sample(i) for i in range(4)]) / "shard.tar"
    assert embed(ShardsConfig(pattern=str(tar)), tmp_path)["embedded_shards"] == 1
    tar = tar.rename(tar.with_name("renamed.tar"))
    assert embed(ShardsConfig(pattern=str(tar)), tmp_path)["made_anew"] == {"other names of tars": 1}


def test_a_file_that_may_not_be_read_is_a_refused_row_until_it_can_be(tmp_path):
    source, file = photos(tmp_path), tmp_path / "photos" / "3.png"
    whole = file.read_bytes()
    file.unlink()
    file.symlink_to("/proc/self/mem")  # a file that nobody can read from its beginning
    made = embed(source, tmp_path)
    assert (made["rows"], made["refused"]) == (3, {"unreadable_file": 1})
    file.unlink()
    file.write_bytes(whole)
    assert embed(source, tmp_path)["rows"] == 4


@pytest.mark.parametrize("change", ["cut", "gone", "altered"])
def test_a_damaged_clip_in_a_dump_is_noticed_and_made_again(tmp_path, change):
    dump = folder_dump(tmp_path)
    weights = dump / "clip" / "weights.safetensors"
    weights.unlink()
    if change != "gone":
        weights.write_bytes(b"wei" if change == "cut" else b"WEIGHTS")
    assert "clip/weights.safetensors: sha256" in "\n".join(verified(dump))
    if change == "altered":
        weights.unlink()  # as docs/dumps.md says
    folder_dump(tmp_path)
    assert weights.read_bytes() == b"weights" and verified(dump) == []


def test_a_first_part_that_is_damaged_is_made_again(tmp_path):
    source = photos(tmp_path)
    embed(source, tmp_path)
    first = part_paths(tmp_path / "dump")[0]
    whole = first.read_bytes()
    for damage in (first.unlink, lambda: first.write_bytes(whole[:50])):
        damage()
        assert embed(source, tmp_path)["made_anew"] == {"files missing or cut short": 1}
        assert first.read_bytes() == whole and len(read_part(first)) == 2


def test_a_dump_of_which_no_part_can_be_read_takes_no_other_clip(tmp_path):
    source = photos(tmp_path)
    embed(source, tmp_path)
    for part in part_paths(tmp_path / "dump"):
        part.unlink()
    with pytest.raises(ValueError, match=r"was made with weights_digest w+, the CLIP given has x+"):
        embed(source, tmp_path, TinyEncoder(weights_digest="x" * 64))
    assert embed(source, tmp_path)["made_anew"] == {"files missing or cut short": 2}


def test_a_record_of_before_is_not_said_to_differ_in_what_it_did_not_know(tmp_path):
    source = photos(tmp_path)
    embed(source, tmp_path)
    for record in (tmp_path / "dump" / "parts").glob("*.json"):
        said = json.loads(record.read_text())
        del said["recipe"]["network_digest"]
        record.write_text(json.dumps(said))
    assert embed(source, tmp_path)["made_anew"] == {"a record of an older version": 2}
