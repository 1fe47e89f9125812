"""Facts about bad pictures: each decodes to its end or says why not, at no more memory than its pixels."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.unclip.data.bad_files import (
    PICTURE_FATES,
    PICTURES,
    fates,
    good_picture,
    tar_of,
)
from tests.unclip.data.data_fixtures import TinyEncoder, sample
from tests.unclip.data.dump_fixtures import embedded
from tests.unclip.data.web_server import encoded
from unclip.data.config import ShardsConfig
from unclip.data.crops import Crop
from unclip.data.dump import part_paths, rows_path
from unclip.data.images import open_rgb


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_decodes_to_its_end_or_says_why_not(name):
    fate = PICTURE_FATES[name]
    if isinstance(fate, str):
        with pytest.raises(ValueError, match=fate):
            open_rgb(PICTURES[name])
    else:
        image = open_rgb(PICTURES[name])
        assert (image.size, image.mode) == (fate, "RGB")


DECODE = """
import json, resource, sys
from pathlib import Path
from PIL import Image
from unclip.data.crops import Crop
from unclip.data.decoding import decode_row
from unclip.data.sources import Found
def memory(name):
    return int(open("/proc/self/status").read().partition(name + ":")[2].split()[0]) * 1024
crop, found = Crop(px=224, resize_mode=sys.argv[2]), {}
crop(Image.new("RGB", (300, 200)))
before, most = memory("VmRSS"), memory("VmSize") + (3 << 30)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for path in sorted(Path(sys.argv[1]).iterdir()):
    row, _ = decode_row(Found(source_id=path.name, caption="a word", data=path.read_bytes()), "0", crop)
    found[path.name] = row.status
print(json.dumps([found, memory("VmHWM") - before]))
"""


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_no_picture_costs_more_memory_as_a_square_than_its_pixels(tmp_path, mode):
    needle = encoded(Image.new("1", (64_000_000, 1)), "PNG")
    for name, data in {**PICTURES, "needle": needle}.items():
        (tmp_path / name).write_bytes(data)
    ran = subprocess.run([sys.executable, "-c", DECODE, tmp_path, mode], capture_output=True, text=True, check=True)
    found, num_bytes = json.loads(ran.stdout)
    fates = {name: "undecodable" if isinstance(fate, str) else "ok" for name, fate in PICTURE_FATES.items()}
    assert found == fates | {"needle": "ok"} and num_bytes < 6 * 64_000_000


class Brittle(Crop):
    """Fails at wide pictures."""

    def __call__(self, image):
        if image.width > image.height:
            raise MemoryError
        return super().__call__(image)


def test_a_picture_that_cannot_be_cropped_is_a_counted_reject(tmp_path):
    encoder = TinyEncoder()
    encoder.crop = Brittle(px=16)
    members = [("a.png", good_picture(0)), ("a.txt", b"wide"), ("b.png", sample(1).image), ("b.txt", b"b")]
    tar_of(tmp_path / "a.tar", members)
    dump = embedded(ShardsConfig(pattern=str(tmp_path / "a.tar")), tmp_path / "dump", encoder)
    assert fates(dump) == ["uncroppable", None]
    assert pq.read_table(rows_path(part_paths(dump)[0]))["detail"][0].as_py() == "a.tar/a: 32x24 pixels: MemoryError "


def test_no_picture_makes_pillow_run_a_program():
    with pytest.raises(ValueError, match="of no known format"):
        open_rgb(PICTURES["eps"])
