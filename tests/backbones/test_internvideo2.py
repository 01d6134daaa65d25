"""InternVideo2: both towers against plain formulas, published files, and clear words."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdst.backbones import load_backbone
from sdst.errors import InputError

pytest.importorskip("transformers")

from sdst.backbones.internvideo2.towers import InternVideo2, Sizes
from tests.backbones.tiny_internvideo2 import TINY, extras, random_weights, write_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("internvideo2") / "model")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Three clips of four frames, at the size that the model sees."""
    return np.random.default_rng(0).integers(0, 256, (12, 28, 28, 3), dtype=np.uint8)


def load(folder: Path, options: str = "", layers: int = 2):
    return load_backbone(f"internvideo2:{folder}{options}", layers, device="cpu")


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """`[N, D]` each -> `[N, D]`."""
    q, k, v = (x.reshape(len(x), heads, -1) for x in (q, k, v))
    logits = torch.einsum("nhc,mhc->hnm", q, k) / q.shape[-1] ** 0.5
    weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return torch.einsum("hnm,mhc->nhc", weights, v).reshape(len(q), -1)


def plain_video(w: dict[str, Tensor], clip: np.ndarray) -> list[Tensor]:
    """The residual stream after each block for one clip `[4, 28, 28, 3]`, `[17, D]` each."""
    pixels = (torch.from_numpy(clip).double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    kernel = w["patch_embed.proj.weight"][:, :, 0]
    tokens = [w["cls_token"][0, 0]]
    for frame in pixels:
        for top in (0, 14):
            for left in (0, 14):
                patch = frame[top : top + 14, left : left + 14]
                value = torch.einsum("yxc,dcyx->d", patch, kernel)
                tokens.append(value + w["patch_embed.proj.bias"])
    x = torch.stack(tokens) + w["pos_embed"][0]
    stream = []
    for i in range(TINY.depth):
        b = {key[len(f"blocks.{i}.") :]: w[key] for key in w if key.startswith(f"blocks.{i}.")}
        q, k, v = (rms(x, b["norm1.weight"]) @ b["attn.qkv.weight"].T).split(TINY.width, dim=1)
        q, k = rms(q, b["attn.q_norm.weight"]), rms(k, b["attn.k_norm.weight"])
        out = attend(q, k, v, TINY.heads) @ b["attn.proj.weight"].T + b["attn.proj.bias"]
        x = x + b["ls1.gamma"] * out
        hidden = gelu(rms(x, b["norm2.weight"]) @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"])
        x = x + b["ls2.gamma"] * (hidden @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"])
        stream.append(x)
    return stream


def plain_pool(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """All tokens `[N, D]` in one `[768]`, by the frozen attention pool."""
    w = {key.removeprefix("clip_projector."): value for key, value in w.items()}
    asked = {"q": x.mean(0, keepdim=True), "k": x, "v": x}
    q, k, v = (
        layer_norm(value, w[f"norm1_{n}.weight"], w[f"norm1_{n}.bias"], 1e-5)
        @ w[f"cross_attn.{n}.weight"].T
        + w[f"cross_attn.{n}_bias"]
        for n, value in asked.items()
    )
    out = attend(q, k, v, TINY.pool_heads)[0]
    return w["cross_attn.proj.weight"] @ out + w["cross_attn.proj.bias"]


def plain_text(w: dict[str, Tensor], ids: list[int]) -> list[Tensor]:
    """Outputs of each layer of BERT for a sentence, `[N, D]` each."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    words, places = (
        w["embeddings.word_embeddings.weight"],
        w["embeddings.position_embeddings.weight"],
    )
    x = words[ids] + places[: len(ids)] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    layers = []
    for i in range(TINY.text_depth):
        name = f"encoder.layer.{i}"
        q, k, v = (linear(x, f"{name}.attention.self.{n}") for n in ("query", "key", "value"))
        out = linear(attend(q, k, v, TINY.text_heads), f"{name}.attention.output.dense")
        x = norm(x + out, f"{name}.attention.output.LayerNorm")
        hidden = gelu(linear(x, f"{name}.intermediate.dense"))
        x = norm(x + linear(hidden, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        layers.append(x)
    return layers


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {key: value.double() for key, value in weights.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): value for key, value in found.items()}


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("layers", [1, 3])
def test_each_tapped_layer_goes_through_the_frozen_attention_pool(folder, frames, layers):
    weights = part(random_weights(), "vision_encoder.")
    features = load(folder, layers=layers).encode_frames(frames)
    assert features.tokens.shape == (layers, 3, 1, TINY.pooled_width)
    for clip in range(3):
        stream = plain_video(weights, frames[4 * clip : 4 * clip + 4])
        pooled = torch.stack([plain_pool(weights, x) for x in stream[-layers:]])
        close(features.tokens[:, clip, 0], pooled)


def test_patch_tokens_are_the_normalised_residual_stream_with_cls_first(folder, frames):
    stream = plain_video(part(random_weights(), "vision_encoder."), frames[:4])
    expected = torch.stack([layer_norm(x, 1, 0, 1e-5) for x in stream[-2:]])
    features = load(folder, ",pooling=none").encode_frames(frames[:4])
    close(features.tokens[:, 0], expected)


@pytest.mark.parametrize(("pooling", "rows"), [("cls", slice(1)), ("mean", slice(None))])
def test_other_poolings_are_of_the_residual_stream(folder, frames, pooling, rows):
    stream = plain_video(part(random_weights(), "vision_encoder."), frames[:4])
    expected = [layer_norm(x[rows].mean(0), 1, 0, 1e-5) for x in stream[-2:]]
    features = load(folder, f",pooling={pooling}").encode_frames(frames[:4])
    close(features.tokens[:, 0, 0], torch.stack(expected))


@pytest.mark.parametrize("pooling", ["attention", "cls"])
def test_the_joint_embedding_is_the_projected_pool_of_the_last_layer(folder, frames, pooling):
    weights = random_weights()
    last = plain_video(part(weights, "vision_encoder."), frames[:4])[-1]
    projection = part(weights, "vision_proj.")
    pooled = plain_pool(part(weights, "vision_encoder."), last)
    expected = unit(projection["weight"] @ pooled + projection["bias"])
    features = load(folder, f",pooling={pooling}").encode_frames(frames[:4])
    close(features.embedding[0], expected)


@pytest.mark.parametrize("layers", [1, 3])
def test_sentences_are_the_last_text_layers_with_cls_and_sep(folder, layers):
    weights = random_weights()
    # [CLS] a b [SEP]; the longer sentence pads this one.
    ids = [2, 5, 6, 3]
    expected = torch.stack(plain_text(part(weights, "text_encoder.bert."), ids)[-layers:])
    projection = part(weights, "text_proj.")
    found = load(folder, layers=layers).encode_text(["A b", "a b c d e f"])[0]
    close(found.tokens, expected)
    close(found.embedding, unit(projection["weight"] @ expected[-1, 0] + projection["bias"]))


def test_shapes_are_announced(folder):
    backbone = load(folder, ",pooling=none")
    assert (backbone.image_size, backbone.frames_at_once) == ((28, 28), 4)
    assert (backbone.layers, backbone.tokens_per_frame) == (2, 1 + 4 * 4)
    assert (backbone.video_width, backbone.text_width, backbone.embed_width) == (16, 20, 8)
    assert (load(folder).tokens_per_frame, load(folder).video_width) == (1, 12)


def test_frames_of_another_shape_are_squashed(folder):
    """A ramp keeps both its ends, where a crop would lose them."""
    ramp = np.linspace(0, 252, 84)[None, None, :, None].repeat(28, 1).repeat(3, 3)
    found = load(folder)._preprocess(torch.from_numpy(ramp.round().astype(np.uint8)))[0]
    levels = torch.linspace(3, 249, 28)  # each the mean of three columns
    expected = (levels / 255 - torch.tensor(MEAN)[:, None]) / torch.tensor(STD)[:, None]
    assert found.shape == (3, 28, 28)
    torch.testing.assert_close(found[:, 14], expected, atol=2 / 255 / 0.224, rtol=0)


def test_a_picture_has_positions_of_its_own(folder, frames):
    weights = random_weights()
    encoder = load(folder, ",frames=1")._model.vision_encoder
    assert torch.equal(encoder._positions(1), weights["vision_encoder.img_pos_embed"])


def test_positions_of_more_frames_lie_on_lines_between_those_known(folder):
    known = random_weights()["vision_encoder.pos_embed"][0]
    found = load(folder, ",frames=8")._model.vision_encoder._positions(8)[0]
    assert found.shape == (1 + 8 * 4, TINY.width)
    assert torch.equal(found[0], known[0])
    grid, old = found[1:].view(8, 4, -1), known[1:].view(4, 4, -1)
    # Frame i of 8 is at (i + 0.5) / 2 - 0.5 of 4: 0 (held), 0.25, 0.75, 1.25, ...
    torch.testing.assert_close(grid[0], old[0])
    torch.testing.assert_close(grid[1], 0.75 * old[0] + 0.25 * old[1])
    torch.testing.assert_close(grid[4], 0.25 * old[1] + 0.75 * old[2])


def test_weights_of_eight_frames_take_eight(tmp_path):
    sizes = replace(TINY, frames=8)
    folder = write_model(tmp_path / "f8", random_weights(sizes), sizes=sizes)
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"frames": 8, ', "")
    )
    assert load(folder).frames_at_once == 8


@pytest.mark.parametrize("root", ["model", "module", "", ".safetensors"])
def test_every_published_layout_loads_the_same(folder, frames, tmp_path, root):
    other = load(write_model(tmp_path / "other", root=root))
    expected = load(folder)
    assert other.fingerprint == expected.fingerprint
    assert torch.equal(other.encode_frames(frames).tokens, expected.encode_frames(frames).tokens)


def test_streamed_is_resident_to_the_last_bit_and_leaves_nothing_behind(folder, frames):
    streamed, resident = load(folder, ",stream=true"), load(folder)
    assert streamed.fingerprint == resident.fingerprint
    found, expected = (b.encode_frames(frames) for b in (streamed, resident))
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.embedding, expected.embedding)
    texts = ["a dog", "a dog runs"]
    for one, other in zip(streamed.encode_text(texts), resident.encode_text(texts), strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.embedding, other.embedding)
    layers = [*streamed._model.vision_encoder.blocks]
    layers += streamed._model.text_encoder["bert"].encoder.layer
    assert all(p.is_meta for layer in layers for p in layer.parameters())


@pytest.mark.slow
def test_streaming_needs_the_memory_of_one_block(tmp_path):
    """340 MB of blocks; a child process reports what encoding added to its peak."""
    sizes = replace(TINY, width=768, mlp_width=3072, depth=12)
    folder = write_model(tmp_path / "large", random_weights(sizes), sizes=sizes)
    weights = (folder / "weights.pt").stat().st_size
    script = f"""
import resource, numpy as np
from sdst.backbones import load_backbone
import sdst.backbones.internvideo2
frames = np.zeros((4, 28, 28, 3), np.uint8)
load_backbone("internvideo2:{tmp_path}/small", 1, "cpu").encode_frames(frames)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
load_backbone("internvideo2:{folder},stream=true", 1, "cpu").encode_frames(frames)
print(peak() - before)
"""
    write_model(tmp_path / "small")
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    assert int(output.stdout) < 0.4 * weights


def test_bfloat16_is_close_to_float32(folder, frames):
    exact, rounded = (load(folder, f",dtype={d}") for d in ("float32", "bfloat16"))
    assert exact.fingerprint == rounded.fingerprint
    expected, found = (b.encode_frames(frames) for b in (exact, rounded))
    assert found.tokens.dtype == torch.float32
    assert (found.embedding * expected.embedding).sum(-1).min() > 0.99


def test_the_fingerprint_shows_what_the_features_are(folder, tmp_path):
    other = write_model(tmp_path / "other", random_weights(seed=1))
    backbones = [
        load(folder),
        load(other),
        load(folder, layers=3),
        load(folder, ",pooling=cls"),
        load(folder, ",frames=2"),
    ]
    assert len({backbone.fingerprint for backbone in backbones}) == len(backbones)


VISION_KEYS = {
    "cls_token",
    "pos_embed",
    "img_pos_embed",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    *(
        f"blocks.{i}.{name}"
        for i in range(40)
        for name in (
            "norm1.weight",
            "attn.qkv.weight",
            "attn.q_norm.weight",
            "attn.k_norm.weight",
            "attn.proj.weight",
            "attn.proj.bias",
            "ls1.gamma",
            "norm2.weight",
            "mlp.fc1.weight",
            "mlp.fc1.bias",
            "mlp.fc2.weight",
            "mlp.fc2.bias",
            "ls2.gamma",
        )
    ),
    *(f"clip_projector.norm1_{n}.{kind}" for n in "qkv" for kind in ("weight", "bias")),
    *(f"clip_projector.cross_attn.{n}.weight" for n in "qkv"),
    *(f"clip_projector.cross_attn.{n}_bias" for n in "qkv"),
    "clip_projector.cross_attn.proj.weight",
    "clip_projector.cross_attn.proj.bias",
}


@pytest.fixture(scope="module")
def full_size() -> dict[str, Tensor]:
    with torch.device("meta"):
        return InternVideo2(Sizes()).state_dict()


def test_the_vision_tower_has_the_published_key_names(full_size):
    names = {key.removeprefix("vision_encoder.") for key in full_size if key.startswith("vision_e")}
    assert names == VISION_KEYS


def test_the_published_vision_tower_has_1049_million_parameters(full_size):
    """With the positions and decoders of pre-training, which the file has and nothing here uses."""
    published = {**full_size, **extras(Sizes())}
    tower = [value for key, value in published.items() if key.startswith("vision_encoder.")]
    assert sum(value.numel() for value in tower) == pytest.approx(1.049e9, abs=5e5)


@torch.inference_mode()
def test_the_full_size_gives_the_shapes_of_the_published_features(full_size):
    with torch.device("meta"):
        model = InternVideo2(Sizes(depth=1, text_depth=1))
    [stream] = model.vision_encoder(torch.zeros(2, 3, 4, 224, 224, device="meta"), at_once=1)
    assert stream.shape == (2, 1025, 1408)
    assert model.vision_encoder.clip_projector(stream).shape == (2, 768)
    assert full_size["text_encoder.bert.embeddings.word_embeddings.weight"].shape == (30522, 1024)
    layers = {key.split(".")[4] for key in full_size if ".encoder.layer." in key}
    assert layers == {str(i) for i in range(19)}


def without(key: str):
    return lambda weights: weights.pop(key)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without("vision_proj.bias"), "has no vision_proj.bias"),
        (without("vision_encoder.blocks.3.ls2.gamma"), r"has no vision_encoder\.blocks\.3\.ls2"),
        (
            lambda weights: weights.update({"vision_encoder.blocks.4.ls2.gamma": torch.ones(16)}),
            r"vision_encoder\.blocks\.4\.ls2\.gamma is no part of InternVideo2",
        ),
        (
            lambda weights: weights.update({"text_proj.weight": torch.ones(8, 21)}),
            r"text_proj\.weight has shape \(8, 21\), expected \(8, 20\)",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_the_name_of_the_tensor(tmp_path, change, named):
    weights = random_weights()
    change(weights)
    with pytest.raises(InputError, match=named):
        load(write_model(tmp_path / "model", weights))


@pytest.mark.parametrize(
    ("options", "layers", "named"),
    [
        (",pooling=max", 2, "pooling is 'max'; expected attention or mean or cls or none"),
        (",size=3", 2, "unknown option size; expected one of tokenizer, frames"),
        (",frames=x", 2, "frames is 'x'; expected 1 or more"),
        ("", 4, "4 layers of 4 blocks of video and 3 of text; expected 1 to 3"),
        (",tokenizer=nowhere", 2, "tokenizer nowhere: has no vocab.txt"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, options, layers, named):
    with pytest.raises(InputError, match=named):
        load(folder, options, layers)


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"expected internvideo2:FILE"):
        load_backbone("internvideo2", 2)
    with pytest.raises(InputError, match=r"nowhere\.pt: no such file"):
        load(tmp_path / "nowhere.pt")
    with pytest.raises(InputError, match=r"has 0 files of weights"):
        load(tmp_path)
    (tmp_path / "broken.pt").write_text("nothing")
    with pytest.raises(InputError, match=r"broken\.pt: cannot be read"):
        load(tmp_path / "broken.pt")


@pytest.mark.parametrize(
    "sizes",
    [
        *("[", "[" * 9999, "[1]", '{"tallness": 1}', '{"depth": "40"}', '{"width": 1e9}'),
        *('{"width": -1}', '{"heads": 7}', '{"patch_size": 65536}', '{"text_heads": 3}'),
    ],
)
def test_sizes_that_make_no_model_are_refused(tmp_path, sizes):
    folder = write_model(tmp_path / "model")
    known = json.loads((folder / "config.json").read_text())
    mixed = sizes.startswith("{") and json.dumps({**known, **json.loads(sizes)})
    (folder / "config.json").write_text(mixed or sizes)
    with pytest.raises(InputError, match=str(tmp_path)):
        load(folder)


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    folder = write_model(tmp_path / "model")
    with (folder / "vocab.txt").open("a") as file:
        file.write("\nmore")
    with pytest.raises(InputError, match=r"expected the vocab\.txt of bert-large-uncased"):
        load(folder)


def test_without_a_vocabulary_it_says_where_one_belongs(tmp_path, monkeypatch):
    from sdst.backbones import internvideo2

    folder = write_model(tmp_path / "model")
    (folder / "vocab.txt").unlink()
    monkeypatch.setattr(internvideo2, "VOCABULARY", str(tmp_path / "no-hub"))
    with pytest.raises(InputError, match=r"has no vocab\.txt, and .* is not in the hub's cache"):
        load(folder)


def test_a_stranger_s_videos_are_extracted_trained_on_and_grounded(
    tiny_dataset, tmp_path, monkeypatch
):
    from sdst import Grounder, extract, train

    monkeypatch.setenv("SDST_CACHE", str(tmp_path / "cache"))
    folder = write_model(tmp_path / "model")
    settings = {
        "config": "custom",
        "data.root": tiny_dataset,
        "data.backbone": f"internvideo2:{folder}",
        "data.clip_length": 1.0,
        "data.frames_per_clip": 4,
        "model.layers": 3,
        "model.width": 32,
        "model.queries": 5,
        "train.epochs": 1,
        "train.batch_size": 8,
        "train.warmup_steps": 2,
    }
    options = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    assert extract.main(options) == 0
    assert train.main(["--output", str(tmp_path / "run"), *options]) == 0
    video = next((tiny_dataset / "videos").iterdir())
    [answer] = Grounder(tmp_path / "run").ground(video, ["a red ball moves"])
    assert len(answer.saliency) == pytest.approx(answer.duration, abs=1) and len(answer.windows)


def test_a_group_of_frames_is_never_torn(folder, tmp_path):
    from sdst.extraction.pipeline import extract_features
    from sdst.extraction.settings import Settings

    with pytest.raises(InputError, match=r"frames_per_clip is 2, but .* takes 4 frames at once"):
        extract_features({}, {}, load(folder), tmp_path / "store", Settings(1.0, frames_per_clip=2))
    assert not (tmp_path / "store").exists()


PUBLISHED = replace(TINY, pooled_width=768, text_width=1024, text_heads=16)


def test_the_published_sizes_can_serve_published_features(tmp_path):
    folder = write_model(tmp_path / "model", random_weights(PUBLISHED), sizes=PUBLISHED)
    load(folder).check_published()
    for options, named in [
        (",pooling=cls", "pooling cls, expected attention"),
        (",frames=8", "frames_at_once 8, expected 4"),
    ]:
        with pytest.raises(InputError, match=named):
            load(folder, options).check_published()


def test_other_sizes_cannot_serve_published_features(folder):
    with pytest.raises(InputError, match="video_width 12, expected 768"):
        load(folder).check_published()
