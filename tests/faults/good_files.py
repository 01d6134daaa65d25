"""A good file of every kind that is made hostile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

EGO4D = (
    '{"version": "1", "videos": [{"video_uid": "v", "clips": [{"clip_uid": "c", "video_start_sec": '
    '0.0, "video_end_sec": 480.0, "annotations": [{"annotation_uid": "a", "language_queries": '
    '[{"clip_start_sec": 43.5, "clip_end_sec": 47.7, "query": "where is the café"}]}]}]}]}'
)
JOURNAL = (
    '{"format": "sdst-features", "version": 2, "dtype": "float16", "meta": {"fingerprint": "x", '
    '"clip_length": 1.0}, "behind": [3, 3]}\n'
)


def prepare(root: Path) -> None:
    """One good file of every kind, and no demo that would be rendered."""
    import numpy as np

    from sdst.config import load_config, save_config
    from sdst.data.store.writer import FeatureWriter
    from sdst.demo.render import write_video
    from sdst.demo.scenes import plan_scene
    from sdst.evaluation import write_predictions
    from tests import layouts
    from tests.untrained import small_config, write_checkpoint

    layouts.write_annotations(root)
    layouts.write_labels(root / "labels")
    (root / "labels" / "train.jsonl").rename(root / "labels.jsonl")
    (root / "ego4d.json").write_text(EGO4D)
    (root / "queries.txt").write_text("a red ball moves left\nein Würfel dreht sich\n", "utf-8")
    records = [
        {"qid": qid, "vid": f"v{qid // 2}", "query": f"half {qid % 2} of the video"}
        | {"pred_relevant_windows": [[0, 4, 0.9], [2, 6, 0.1]]}
        | {"pred_saliency_scores": [0.1 * i for i in range(layouts.clips_of(f"v{qid // 2}"))]}
        for qid in range(16, 24)
    ]
    write_predictions(root / "predictions.jsonl", records)
    layouts.write_annotations(root / "features")
    options = layouts.write_features(root / "features", "moment_detr")
    config = load_config("demo", [*options, *layouts.training_options("moment_detr")])
    save_config(config, root / "features.yaml")
    save_config(small_config(), root / "config.yaml")
    write_checkpoint(root / "run", small_config())
    rng = np.random.default_rng(0)
    with FeatureWriter(root / "store", {"fingerprint": "x", "clip_length": 1.0}) as writer:
        for qid in range(3):
            writer.add_query(qid, rng.normal(size=(2, 5, 8)), rng.normal(size=4))
        for vid in "abc":
            writer.add_video(vid, 5.0, rng.normal(size=(2, 5, 3, 8)), rng.normal(size=(5, 4)))
    shutil.copytree(root / "store", root / "growing")
    (root / "growing" / "journal.jsonl").write_text(JOURNAL)
    write_moments(root)
    write_indexed(root)
    scene = plan_scene("val", 0, 0)
    write_video(scene, root / "film.mp4")


def write_indexed(root: Path) -> None:
    """A store to index, fields of its videos, a condition on them, and an id."""
    import numpy as np

    from sdst.backbones import load_backbone
    from sdst.data.store.writer import FeatureWriter
    from sdst.extraction.settings import Settings

    backbone = load_backbone("demo", 1)
    rng = np.random.default_rng(0)
    with FeatureWriter(root / "encoded", Settings(2.0).meta(backbone)) as writer:
        for vid, clips in (("a", 300), ("b", 40), ("c'd", 5)):
            embedding = rng.normal(size=(clips, backbone.embed_width))
            embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
            writer.add_video(vid, 2.0 * clips, rng.normal(size=(1, clips, 1, 4)), embedding)
    fields = {"a": {"year": 2020, "place": "park"}, "b.mp4": {"year": 2021.5, "open": True}}
    (root / "fields.csv").write_text("vid,year,place,open\na,2020,park,\nb.mp4,2021.5,,true\n")
    (root / "fields.json").write_text(json.dumps(fields, indent=1))
    lines = [json.dumps({"vid": vid, **values}) for vid, values in fields.items()]
    (root / "fields.jsonl").write_text("\n".join(lines))
    (root / "where.sql").write_text("year >= 2020 AND (place = 'park' OR open)")
    (root / "id.txt").write_text("a")


def write_moments(root: Path) -> None:
    """A moment of each of three small videos, as programs for annotations export it."""
    from tests.extraction.grey import write_video

    (root / "films").mkdir()
    moments = [("park", 1, 3.5), ("lake", 2, 4), ("wood", 0, 2.5)]
    for name, *_ in moments:
        write_video(root / "films" / f"{name}.mp4", range(40, 240, 20))
    rows = [f'{name}.mp4,{start},0:{end:04.1f},"a dog, {name}"' for name, start, end in moments]
    (root / "moments.csv").write_text("\n".join(["video,start,end,sentence", *rows, ""]))
    (root / "more.csv").write_text(
        "\n".join(["video,start,end,query", *rows[1:], ""]).replace("dog", "cat")
    )
    document = {
        name: [{"segment": [start, end], "caption": "a dog"}] for name, start, end in moments
    }
    (root / "moments.json").write_text(json.dumps(document, indent=1))
    slots = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="{name}{i}" TIME_VALUE="{int(1000 * time)}"/>\n'
        for name, *times in moments
        for i, time in enumerate(times)
    )
    aligned = "".join(
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="{name}" TIME_SLOT_REF1="{name}0" '
        f'TIME_SLOT_REF2="{name}1"><ANNOTATION_VALUE>a dog</ANNOTATION_VALUE>'
        "</ALIGNABLE_ANNOTATION></ANNOTATION>\n"
        for name, *_ in moments
    )
    (root / "moments.eaf").write_text(
        '<?xml version="1.0"?>\n<ANNOTATION_DOCUMENT><HEADER><MEDIA_DESCRIPTOR TIME_ORIGIN="0" '
        f'MEDIA_URL="file:///x/park.mp4"/></HEADER>\n<TIME_ORDER>{slots}</TIME_ORDER>\n'
        f'<TIER TIER_ID="what">{aligned}</TIER></ANNOTATION_DOCUMENT>\n'
    )
    tasks = [
        {
            "data": {"video": f"/data/upload/1/0a-{name}.mp4"},
            "annotations": [
                {
                    "result": [
                        {"id": "r", "type": "labels", "value": {"start": start, "end": end}},
                        {"id": "r", "type": "textarea", "value": {"text": ["a dog"]}},
                    ]
                }
            ],
        }
        for name, start, end in moments
    ]
    (root / "tasks.json").write_text(json.dumps(tasks, indent=1))
    names = [name for name, *_ in moments]
    project = {
        "project": {"pid": "x", "vid_list": names},
        "file": {name: {"fid": name, "fname": f"{name}.mp4", "src": ""} for name in names},
        "view": {name: {"fid_list": [name]} for name in names},
        "attribute": {"1": {"aname": "what", "type": 4, "options": {"0": "a cat", "1": "a dog"}}},
        "metadata": {
            name: {"vid": name, "z": [start, end], "xy": [], "av": {"1": "1"}}
            for name, start, end in moments
        },
    }
    (root / "via.json").write_text(json.dumps(project, indent=1))
    rows = [
        f'"{name}","[""{name}.mp4""]","[{start},{end}]","{{""1"":""a dog""}}"'
        for name, start, end in moments
    ]
    header = "# CSV_HEADER = metadata_id,file_list,temporal_coordinates,metadata"
    (root / "via.csv").write_text("\n".join(["# Exported", header, *rows, ""]))
    (root / "park.srt").write_text(
        "1\n00:00:01,000 --> 00:00:03,500\n<i>a dog</i> &amp; a cat\n\n"
        "2\n00:00:02,000 --> 00:00:04,000\na bird\n"
    )
