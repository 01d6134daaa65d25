"""Extraction: every video and query in the store, overlapped, atomic, and the command around it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from sdst.backbones import FrameFeatures, TextFeatures
from sdst.data import video
from sdst.errors import InputError
from sdst.extract import extract_features, find_videos, main

K, P, WIDTH = 2, 3, 4


class GreyBackbone:
    """A frame's features are its mean grey level over 255, a sentence's its number of words."""

    name = "grey"
    fingerprint = "grey-1"
    device = torch.device("cpu")
    image_size = (16, 16)
    frames_at_once = 1
    layers, tokens_per_frame = K, P
    video_width = text_width = embed_width = WIDTH

    def encode_frames(self, frames: np.ndarray) -> FrameFeatures:
        grey = torch.from_numpy(frames.mean(axis=(1, 2, 3)) / 255).float()
        return FrameFeatures(
            grey.view(1, -1, 1, 1).expand(K, -1, P, WIDTH), grey.view(-1, 1).expand(-1, WIDTH)
        )

    def encode_text(self, texts: list[str]) -> list[TextFeatures]:
        counts = [len(text.split()) for text in texts]
        return [TextFeatures(torch.full((K, n, WIDTH), n), torch.ones(WIDTH)) for n in counts]


def write_video(path: Path, levels: list[int]) -> Path:
    """Two frames a second, of the given grey levels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2, options={"crf": "4"})
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), level, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "videos"
    folder.mkdir()
    return {
        name: write_video(folder / f"{name}.mp4", levels)
        for name, levels in {
            "rising": [40, 60, 80, 100, 120, 140, 160, 180],
            "dark": [30] * 6,
            "bright": [200] * 10,
        }.items()
    }


def extract(videos: dict[str, Path], out: Path, **options):
    queries = {1: "a red ball", "two": "a dog that runs away"}
    return extract_features(videos, queries, GreyBackbone(), out, progress=False, **options)


def test_every_video_is_stored_with_its_clips_and_duration(videos, tmp_path):
    store = extract(videos, tmp_path / "store", clip_length=1.0)
    shapes = {vid: store.video(vid).tokens.shape for vid in store.video_ids}
    assert shapes == {
        "rising": (K, 4, P, WIDTH),
        "dark": (K, 3, P, WIDTH),
        "bright": (K, 5, P, WIDTH),
    }
    assert store.video("rising").duration == 4.0


def test_every_query_is_stored_under_its_id(videos, tmp_path):
    store = extract(videos, tmp_path / "store", clip_length=1.0)
    assert store.query(1).tokens.shape == (K, 3, WIDTH)
    assert store.query("two").tokens.shape == (K, 5, WIDTH)


def test_meta_tells_what_made_the_store(videos, tmp_path):
    store = extract(videos, tmp_path / "store", clip_length=2.0, frames_per_clip=2)
    assert store.meta == {
        "backbone": "grey",
        "fingerprint": "grey-1",
        "clip_length": 2.0,
        "frames_per_clip": 2,
    }


def test_a_clip_is_the_mean_of_its_frames(videos, tmp_path):
    store = extract(videos, tmp_path / "store", clip_length=2.0, frames_per_clip=4)
    grey = 255 * store.video("rising").tokens[0, :, 0, 0].astype(float)
    np.testing.assert_allclose(grey, [70, 150], atol=3)


def test_embeddings_are_unit_vectors(videos, tmp_path):
    store = extract(videos, tmp_path / "store", clip_length=2.0, frames_per_clip=2)
    norms = np.linalg.norm(store.video("dark").embedding.astype(float), axis=-1)
    np.testing.assert_allclose(norms, 1, atol=1e-3)


def test_a_video_of_many_batches_stays_in_order(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "BATCH_FRAMES", 1)
    store = extract(videos, tmp_path / "store", clip_length=1.0)
    grey = 255 * store.video("rising").tokens[0, :, 0, 0].astype(float)
    assert (np.diff(grey) > 20).all()


def test_the_number_of_threads_is_restored(videos, tmp_path):
    before = torch.get_num_threads()
    extract(videos, tmp_path / "store", clip_length=1.0)
    assert torch.get_num_threads() == before


def test_a_broken_video_leaves_no_store_and_is_named(videos, tmp_path):
    broken = tmp_path / "videos" / "broken.mp4"
    broken.write_bytes(videos["dark"].read_bytes()[:300])
    with pytest.raises(InputError, match=r"broken\.mp4"):
        extract({**videos, "broken": broken}, tmp_path / "store", clip_length=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_videos_of_a_folder_are_found_by_their_names(videos, tmp_path):
    (tmp_path / "videos" / "notes.txt").write_text("not a video")
    assert find_videos([tmp_path / "videos"]) == dict(sorted(videos.items()))


def test_two_files_of_one_name_are_refused(videos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    twin = write_video(other / "dark.mp4", [10])
    with pytest.raises(InputError, match="the same id dark"):
        find_videos([tmp_path / "videos", twin])


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        find_videos([tmp_path / "nowhere"])


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(InputError, match="no video files in this folder"):
        find_videos([tmp_path])


def test_the_command_writes_a_store(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sdst.extract.load_backbone", lambda name, layers: GreyBackbone())
    annotations = tmp_path / "queries.jsonl"
    annotations.write_text(
        '{"qid": 5, "query": "a grey room", "vid": "dark", "duration": 3.0, '
        '"relevant_windows": [[0, 2]]}\n'
    )
    arguments = ["--videos", str(tmp_path / "videos"), "--annotations", str(annotations)]
    assert main([*arguments, "--clip-length", "1", "--output", str(tmp_path / "store")]) == 0
    assert "3 videos, 1 queries" in capsys.readouterr().out


def test_the_command_refuses_to_overwrite_before_it_works(videos, tmp_path):
    arguments = ["--videos", str(tmp_path / "videos"), "--output", str(tmp_path)]
    with pytest.raises(InputError, match="exists already"):
        main(arguments)
