"""A video is encoded once for all questions, as the training's features were."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sdst import Grounder
from sdst.backbones import DEMO_BACKBONE
from sdst.demo.render import write_video
from sdst.demo.scenes import plan_scene
from sdst.errors import InputError
from sdst.grounding import encoder
from tests.untrained import QUERIES, small_config, write_checkpoint


@pytest.fixture
def extractions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The videos that were decoded and encoded, in order."""
    calls: list[Path] = []
    extract = encoder.extract_features

    def counted(videos, *arguments, **options):
        calls.extend(videos.values())
        return extract(videos, *arguments, **options)

    monkeypatch.setattr(encoder, "extract_features", counted)
    return calls


def test_a_video_is_encoded_once_in_a_process(grounder, film, extractions):
    grounder.ground(film, QUERIES[:1])
    grounder.ground(film, QUERIES[1:])
    assert extractions == [film]


def test_a_video_is_encoded_once_over_processes(untrained, own_cache, film, extractions):
    first = Grounder(untrained, device="cpu").ground(film, QUERIES)
    second = Grounder(untrained, device="cpu").ground(film, QUERIES)
    assert extractions == [film]
    assert [a.windows for a in first] == [a.windows for a in second]


def test_encoding_shows_a_bar_where_asked(grounder, film, capsys):
    grounder.ground(film, QUERIES, progress=True)
    assert "encode: 100%" in capsys.readouterr().err


def test_a_changed_video_is_encoded_anew(grounder, film, tmp_path, extractions):
    path = tmp_path / "changing.mp4"
    path.write_bytes(film.read_bytes())
    grounder.ground(path, QUERIES[:1])
    write_video(plan_scene("val", 1, 0), path)
    grounder.ground(path, QUERIES[:1])
    assert extractions == [path, path]


def test_other_clip_settings_are_encoded_anew(grounder, film, tmp_path, extractions):
    config = small_config()
    other = replace(config, data=replace(config.data, clip_length=2.0))
    grounder.ground(film, QUERIES[:1])
    Grounder(write_checkpoint(tmp_path / "run", other), "cpu").ground(film, QUERIES[:1])
    assert extractions == [film, film]


def test_a_damaged_cache_is_made_anew(grounder, untrained, own_cache, film, extractions):
    grounder.ground(film, QUERIES[:1])
    [store] = own_cache.iterdir()
    (store / "video_tokens.bin").write_bytes(b"short")
    Grounder(untrained, device="cpu").ground(film, QUERIES[:1])
    assert extractions == [film, film]


def test_a_cache_that_cannot_be_written_is_done_without(grounder, film, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("SDST_CACHE", str(blocked))
    assert len(grounder.ground(film, QUERIES[:1])) == 1


def test_memory_holds_the_videos_used_last(grounder, film, tmp_path):
    for i in range(encoder.VIDEOS_IN_MEMORY + 2):
        path = tmp_path / f"{i}.mp4"
        path.write_bytes(film.read_bytes())
        grounder.encoder.encode(path)
    assert len(grounder.encoder._recent) == encoder.VIDEOS_IN_MEMORY


def test_a_backbone_of_other_widths_is_refused(tmp_path, own_cache):
    config = small_config()
    other = replace(config, model=replace(config.model, video_width=128))
    with pytest.raises(InputError, match="video_width 96, but the checkpoint was trained on 128"):
        Grounder(write_checkpoint(tmp_path / "run", other))


def test_a_backbone_of_other_weights_is_refused(tmp_path, own_cache):
    checkpoint = write_checkpoint(tmp_path / "run", small_config(), fingerprint="f00")
    with pytest.raises(InputError, match=r"not those the checkpoint was trained with .* f00\)"):
        Grounder(checkpoint)


def test_a_backbone_that_only_the_checkpoint_names_is_not_fetched(tmp_path, own_cache, untrained):
    foreign = tmp_path / "run"
    shutil.copytree(untrained, foreign)
    config = foreign / "config.yaml"
    config.write_text(config.read_text().replace("backbone: demo", "backbone: hf-hub:some/body"))
    with pytest.raises(InputError, match=r"hf-hub:some/body: not on this machine, .* unasked"):
        Grounder(foreign)


@pytest.mark.parametrize(
    ("features", "backbone", "reason"),
    [
        ("univtg", None, r"trained on feature files of others \(univtg\)"),
        ("sdst", None, "name the weights that made them, --backbone internvideo2:PATH"),
        ("sdst", "demo", "expected internvideo2:PATH"),
    ],
)
def test_a_checkpoint_says_why_it_cannot_ground(tmp_path, own_cache, features, backbone, reason):
    config = small_config()
    files = replace(config.data, features=features, video_features=["video"], text_features="text")
    checkpoint = write_checkpoint(tmp_path / "run", replace(config, data=files))
    with pytest.raises(InputError, match=reason):
        Grounder(checkpoint, backbone=backbone)


def test_a_backbone_of_the_same_weights_may_be_elsewhere(tmp_path, untrained, own_cache):
    elsewhere = shutil.copytree(DEMO_BACKBONE, tmp_path / "backbone")
    grounder = Grounder(untrained, backbone=f"local-dir:{elsewhere}")
    assert grounder.backbone.fingerprint == Grounder(untrained).backbone.fingerprint


def test_encoders_that_meet_at_a_video_share_its_features(untrained, own_cache, film):
    encoders = [Grounder(untrained, device="cpu").encoder for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda encoder: encoder.encode(film), encoders))
    assert len({features.tokens.tobytes() for features in found}) == 1
    assert len(list(own_cache.iterdir())) == 1
