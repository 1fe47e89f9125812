"""Tables of random vectors, and indices of them."""

import faiss
import numpy as np

from tests.unclip.data.data_fixtures import part
from unclip.data.config import IndexConfig
from unclip.data.digests import file_digest
from unclip.data.index import write_index

faiss.omp_set_num_threads(1)
LISTS = {"kind": "ivf", "num_lists": 12}


def parts(tmp_path, sizes=(300, 500), center=0.0, last=0.0):
    tmp_path.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    made = []
    for number, size in enumerate(sizes):
        image = rng.normal(size=(size, 16)).astype(np.float32) + (last if number == len(sizes) - 1 else center)
        near = image + rng.normal(size=image.shape).astype(np.float32)
        made.append(part(tmp_path / f"{number}.parquet", image, number, near))
    return made


def indexed(out, paths, keep=None, **config):
    out.mkdir(exist_ok=True)
    return write_index(IndexConfig(**config), paths, [file_digest(path) for path in paths], out, 0, keep)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
