from pathlib import Path

import pytest

from flows.config import load_pipeline

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "pipelines.yaml"


def refused(tmp_path, text, name="big", overrides=()):
    path = tmp_path / "pipelines.yaml"
    path.write_text(FILE.read_text() + "\n" + text)
    with pytest.raises(ValueError) as error:
        load_pipeline(path, name, overrides)
    return str(error.value)


@pytest.mark.parametrize("name", ["shapes", "emoji", "data", "paper"])
def test_every_pipeline_of_ours_loads(name, monkeypatch):
    monkeypatch.setenv("UNCLIP_URLS", "pairs.csv")
    assert load_pipeline(FILE, name).about


def test_a_misspelt_setting_is_named_with_its_place_and_the_right_one(tmp_path):
    text = "big:\n  extends: shapes\n  embed:\n    batch_sizee: 3\n"
    line = len(FILE.read_text().splitlines()) + 5
    assert refused(tmp_path, text) == f"pipelines.yaml:{line}:5 big.embed.batch_sizee: did you mean 'batch_size'?"


def test_a_misspelt_setting_deep_in_a_network_is_named(tmp_path):
    text = "big:\n  extends: shapes\n  decoder:\n    network:\n      unet: {chanels: 3}\n"
    assert "big.decoder.network.unet.chanels: did you mean 'channels'?" in refused(tmp_path, text)


def test_all_errors_come_at_once(tmp_path):
    text = "big:\n  extends: shapes\n  sead: 1\n  embed: {batch_size: many}\n"
    message = refused(tmp_path, text)
    assert "big.sead: did you mean 'seed'?" in message
    assert "big.embed.batch_size: input should be a valid integer" in message


def test_an_impossible_value_says_what_is_allowed(tmp_path):
    message = refused(tmp_path, "big: {extends: shapes, embed: {batch_size: 0}}\n")
    assert message.endswith("big.embed: batch_size must be >= 1, got 0")


def test_dimensions_that_do_not_fit_are_refused(tmp_path):
    message = refused(tmp_path, "big: {extends: shapes, upsampler_top: {network: {low_px: 20}}}\n")
    assert "big.upsampler_top.network.low_px must be upsampler_mid's high_px" in message
    message = refused(tmp_path, "big: {extends: emoji, source: {urls: {path: x.csv}}, download: {max_side_px: 63}}\n")
    assert "big.download.max_side_px must be at least 64, the pictures that train, got 63" in message


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("top_steps: 2000", "big.assemble.top_steps must be at most the 1000 steps that were trained, got 2000"),
        ("tile_px: 10", "big.assemble.tile_px must be a multiple of 4 and at least 8, got 10"),
        ("tile_px: 64", "big.assemble.tile_px has no effect: pictures are of 64 pixels, got 64"),
    ],
)
def test_a_way_to_sample_that_does_not_fit_the_networks_is_refused(tmp_path, setting, said):
    message = refused(tmp_path, f"big: {{extends: shapes, assemble: {{{setting}}}}}\n")
    assert message.endswith(said)


def test_large_is_what_nobody_would_just_try(monkeypatch):
    monkeypatch.setenv("UNCLIP_URLS", "pairs.csv")
    assert [load_pipeline(FILE, name).is_large for name in ("shapes", "data", "paper")] == [False, False, True]


def test_a_decoder_of_text_embeddings_is_given_them(tmp_path):
    message = refused(tmp_path, "big: {extends: shapes, decoder: {network: {embedding: text}}}\n")
    assert message.endswith("must be text_embedding for a decoder of text embeddings, got prior_diffusion")
    assert "embedding must be 'image' or 'text', got 'both'" in refused(
        tmp_path, "big: {extends: shapes, decoder: {network: {embedding: both}}}\n"
    )
    assert load_pipeline(FILE, "shapes-text").assemble.prior == "text_embedding"


def test_an_unknown_pipeline_is_answered_with_the_known_ones(tmp_path):
    message = refused(tmp_path, "big: {extends: shapes}\n", name="bigg")
    assert message.startswith("pipelines.yaml has no pipeline 'bigg'; it has shapes,")


def test_extends_in_a_circle_is_refused(tmp_path):
    message = refused(tmp_path, "big: {extends: bigger}\nbigger: {extends: big}\n")
    assert message == "pipelines.yaml: 'extends' goes round in a circle: big -> bigger -> big"


def test_an_override_wins_and_its_errors_name_it(tmp_path):
    assert load_pipeline(FILE, "shapes", ("embed.batch_size=17",)).embed.batch_size == 17
    message = refused(tmp_path, "", name="shapes", overrides=("embed.batch=1",))
    assert message == "--set embed.batch: did you mean 'batch_size'?"


def test_an_override_without_a_value_is_refused(tmp_path):
    assert refused(tmp_path, "", "shapes", ("seed",)) == "--set must be stage.field=value, got 'seed'"


def test_the_environment_is_interpolated_and_must_be_there(tmp_path, monkeypatch):
    text = "big: {extends: shapes, source: {shapes: null, folder: {folder: '${env:UNCLIP_T}/a', captions: c.csv}}}\n"
    monkeypatch.delenv("UNCLIP_T", raising=False)
    assert "the environment has no variable UNCLIP_T" in refused(tmp_path, text)
    monkeypatch.setenv("UNCLIP_T", "/data")
    path = tmp_path / "pipelines.yaml"
    assert load_pipeline(path, "big").source.folder.folder == "/data/a"
    monkeypatch.delenv("UNCLIP_T")
    assert load_pipeline(path, "big", ("source.folder.folder=mine",)).source.folder.folder == "mine"


def test_a_schedule_says_one_thing(tmp_path):
    text = "big: {extends: shapes, schedule: {cron: '0 3 * * *'}}\n"  # shapes has every_s
    assert "big.schedule: schedule needs either 'cron' or 'every_s'" in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("runner", "message"),
    [
        ("{num_workers: 2}", "runner.num_workers has no effect"),
        ("{kind: threads}", "runner.num_workers is needed for kind 'threads'"),
        ("{kind: threads, num_workers: 2, address: auto}", "runner.address has no effect on kind 'threads'"),
        ("{kind: dask, num_workers: 2, address: tcp://x:1}", "runner.num_workers has no effect"),
        ("{kind: ray, num_workers: 0}", "runner.num_workers must be >= 1, got 0"),
    ],
)
def test_a_runner_says_what_has_an_effect(tmp_path, runner, message):
    assert message in refused(tmp_path, f"big: {{extends: shapes, runner: {runner}}}\n")


def test_dask_workers_start_no_decoders(tmp_path):
    text = "big: {extends: shapes, runner: {kind: dask, num_workers: 2}, embed: {workers: 2}}\n"
    assert "big.embed.workers must be 0 with runner.kind dask" in refused(tmp_path, text)


def test_yaml_that_cannot_be_read_is_one_line(tmp_path):
    message = refused(tmp_path, "big: [")
    assert message.startswith("pipelines.yaml cannot be read") and "\n" not in message


def test_more_ranks_than_gpus_are_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr("flows.config.glob", lambda pattern: ["/dev/nvidia0"])
    monkeypatch.setattr("flows.config.Path.exists", lambda path: True)
    ranks = "decoder.train.ranks=2"
    with pytest.raises(ValueError, match=r"decoder\.train\.ranks.*must be at most the 1 GPUs of this machine, got 2"):
        load_pipeline(FILE, "shapes", ("device=cuda", ranks))
    with pytest.raises(ValueError, match=r"decoder\.train\.ranks.*must be 1 on cuda:0, got 2"):
        load_pipeline(FILE, "shapes", ("device=cuda:0", ranks))
    assert load_pipeline(FILE, "shapes", (ranks,)).decoder.train.ranks == 2


def test_redirects_keep_out_of_the_domains_and_urls_that_the_list_keeps_out_of(tmp_path):
    source = "source={urls: {path: list.csv, blocked_domains: out.txt, blocked_urls: urls.txt}}"
    pipeline = load_pipeline(ROOT / "tests" / "shrunken.yaml", "shrunken", (source, "download={}"))
    assert (pipeline.download.blocked_domains, pipeline.download.blocked_urls) == ("out.txt", "urls.txt")
    with pytest.raises(ValueError, match=r"must be left to source\.urls\.blocked_domains, got 'other\.txt'"):
        load_pipeline(FILE, "emoji", (source, "download={blocked_domains: other.txt}"))
