"""Facts about the files of retries."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq

from unclip.data.retries import read_retries, write_retry


def test_retries_written_at_once_overwrite_none(tmp_path):
    def write(number):
        row = {"url": f"http://a.example/{number}", "caption": "x", "sample_id": bytes(16), "status": "timeout"}
        return write_retry(tmp_path, [(0, row)], {0: "token"}, {}).shard

    with ThreadPoolExecutor(8) as pool:
        shards = list(pool.map(write, range(40)))
    assert sorted(shards) == list(range(900_000, 900_040))
    urls = {pq.read_table(retry.path)["url"][0].as_py() for retry in read_retries(tmp_path)}
    assert len(urls) == 40 == len(list(tmp_path.iterdir()))
