"""The open_clip backbone: hidden states as open_clip has them, and clear words when it cannot."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from sdst.backbones import DEMO_BACKBONE, load_backbone
from sdst.backbones.openclip import FRAMES_AT_ONCE
from sdst.backbones.openclip.files import locate
from sdst.backbones.openclip.preprocessing import Preprocess
from sdst.backbones.openclip.states import normalized
from sdst.errors import InputError
from sdst.memory import own_memory

MODEL = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 16,
        "width": 32,
        "head_width": 16,
        "layers": 3,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 40,
        "heads": 2,
        "layers": 3,
    },
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def write_model(
    folder: Path, seed: int = 0, dtype: torch.dtype = torch.float16, text_width: int = 40
) -> Path:
    """A tiny open_clip model with random weights, as a local folder."""
    folder.mkdir()
    torch.manual_seed(seed)
    model = {**MODEL, "text_cfg": {**MODEL["text_cfg"], "width": text_width}}
    weights = open_clip.CLIP(**model).state_dict()
    save_file({k: v.to(dtype) for k, v in weights.items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": model, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("openclip") / "model")


@pytest.fixture(scope="module")
def backbone(folder: Path):
    return load_backbone(f"local-dir:{folder}", layers=2, device="cpu")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)


def test_shapes_are_announced(backbone):
    assert backbone.image_size == (32, 32)
    assert (backbone.layers, backbone.tokens_per_frame) == (2, 1 + 4)
    assert (backbone.video_width, backbone.text_width, backbone.embed_width) == (32, 40, 24)


def test_frames_give_tokens_of_every_layer_and_a_unit_embedding(backbone, frames):
    features = backbone.encode_frames(frames)
    assert features.tokens.shape == (2, 5, 5, 32)
    assert features.tokens.dtype == torch.float32
    torch.testing.assert_close(features.embedding.norm(dim=-1), torch.ones(5))


def test_embeddings_are_open_clips_own(backbone, folder, frames):
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    images = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
    with torch.inference_mode():
        expected = model.encode_image(images, normalize=True)
    torch.testing.assert_close(
        backbone.encode_frames(frames).embedding, expected, atol=2e-3, rtol=0
    )


def test_tokens_are_the_normalised_outputs_of_the_last_blocks_with_cls_first(backbone, frames):
    model = backbone.model
    outputs = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
        for block in model.visual.transformer.resblocks[-2:]
    ]
    features = backbone.encode_frames(frames)
    for hook in hooks:
        hook.remove()
    plain = torch.nn.functional.layer_norm(torch.stack(outputs), outputs[0].shape[-1:])
    torch.testing.assert_close(features.tokens, plain)


def test_a_batch_gives_what_its_frames_give_alone(backbone, frames, monkeypatch):
    together = backbone.encode_frames(frames)
    monkeypatch.setitem(FRAMES_AT_ONCE, "cpu", 2)
    apart = backbone.encode_frames(frames)
    torch.testing.assert_close(apart.tokens, together.tokens)
    torch.testing.assert_close(apart.embedding, together.embedding)


def test_sentences_are_trimmed_to_their_own_tokens(backbone):
    short, long = backbone.encode_text(["cat", "a cat on a mat"])
    assert short.tokens.shape == (2, 1 + 2, 40)
    assert long.tokens.shape == (2, 5 + 2, 40)


def test_token_zero_inside_a_sentence_is_no_padding(backbone):
    plain, marked = backbone.encode_text(["cat cat", "cat !cat"])  # "!" before a letter is id 0
    assert marked.tokens.shape[1] >= plain.tokens.shape[1]


def test_a_sentence_does_not_depend_on_its_batch(backbone):
    [alone] = backbone.encode_text(["a cat"])
    together = backbone.encode_text(["a cat", "two dogs and a very long walk"])[0]
    torch.testing.assert_close(alone.tokens, together.tokens)


def test_sentence_embeddings_are_open_clips_own(backbone):
    ids = open_clip.SimpleTokenizer(context_length=16)(["a cat"])
    with torch.inference_mode():
        expected = backbone.model.encode_text(ids, normalize=True)[0]
    torch.testing.assert_close(backbone.encode_text(["a cat"])[0].embedding, expected)


def test_tokens_of_a_sentence_are_those_of_the_whole_context(backbone):
    ids = open_clip.SimpleTokenizer(context_length=16)(["a cat"])
    with torch.inference_mode():
        expected = backbone.model.forward_intermediates(text=ids, text_indices=2)
    whole = normalized(torch.stack(expected["text_intermediates"]))[:, 0]
    [found] = backbone.encode_text(["a cat"])
    torch.testing.assert_close(found.tokens, whole[:, : found.tokens.shape[1]])


def test_padding_is_not_read(backbone):
    read = []
    first = backbone.model.transformer.resblocks[0]
    hook = first.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    backbone.encode_text(["a cat"])
    hook.remove()
    assert read == [4]  # with the marks of start and end


def test_weights_are_those_of_the_file_in_fp32(backbone, folder):
    written = load_file(folder / "open_clip_model.safetensors")
    found = backbone.model.state_dict()
    assert found.keys() == written.keys()
    assert all(torch.equal(found[name], weight.float()) for name, weight in written.items())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory as Linux does")
def test_weights_are_mapped_and_not_read(tmp_path):
    folder = write_model(tmp_path / "model", dtype=torch.float32, text_width=400)
    size = (folder / "open_clip_model.safetensors").stat().st_size
    before = own_memory()
    wide = load_backbone(f"local-dir:{folder}", layers=2, device="cpu")
    assert own_memory() - before < size / 4
    assert len(wide.encode_text(["a cat"])) == 1


def test_layers_that_other_threads_make_meanwhile_have_weights(monkeypatch):
    create, layers = open_clip.create_model, []

    def creating(*arguments: object, **options: object) -> nn.Module:
        with ThreadPoolExecutor(1) as other:
            layers.append(other.submit(nn.Linear, 2, 2).result())
        return create(*arguments, **options)

    monkeypatch.setattr(open_clip, "create_model", creating)
    load_backbone("demo", 1)
    assert layers and not any(weight.is_meta for weight in layers[0].parameters())


def test_several_threads_may_load_a_backbone_at_once():
    with ThreadPoolExecutor(4) as threads:
        backbones = list(threads.map(lambda _: load_backbone("demo", 1), range(4)))
    assert len({backbone.fingerprint for backbone in backbones}) == 1
    assert logging.root.manager.disable == logging.NOTSET


def test_no_gradient_is_kept(backbone, frames):
    assert not backbone.encode_frames(frames).tokens.requires_grad
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_the_fingerprint_does_not_depend_on_where_the_weights_lie(backbone, tmp_path):
    copy = load_backbone(f"local-dir:{write_model(tmp_path / 'copy')}", layers=2, device="cpu")
    assert copy.fingerprint == backbone.fingerprint


def test_the_fingerprint_depends_on_weights_and_layers(backbone, folder, tmp_path):
    other = load_backbone(f"local-dir:{write_model(tmp_path / 'other', 1)}", 2, device="cpu")
    deeper = load_backbone(f"local-dir:{folder}", layers=3, device="cpu")
    assert len({backbone.fingerprint, other.fingerprint, deeper.fingerprint}) == 3


def test_the_packaged_backbone_loads_under_its_short_name():
    if not DEMO_BACKBONE.is_dir():
        pytest.skip(
            "the packaged backbone has not been made: python -m sdst.demo.pretraining.train"
        )
    backbone = load_backbone("demo", layers=4, device="cpu")
    assert backbone.name == "demo"
    assert backbone.encode_text(["a red circle"])[0].tokens.shape[1] == 3 + 2


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [32, 96, (40, 64)])
def test_preprocessing_is_open_clips_own(resize_mode, interpolation, size):
    config = PreprocessCfg(size=size, resize_mode=resize_mode, interpolation=interpolation)
    gradient = np.mgrid[0:54, 0:96].sum(axis=0)[..., None] * [1, 2, 3] % 256
    frame = gradient.astype(np.uint8)
    expected = image_transform_v2(config, is_train=False)(Image.fromarray(frame))
    got = Preprocess(config)(torch.from_numpy(frame[None]))[0]
    grey_level = 1 / (255 * min(config.std))
    assert (got - expected).abs().max() <= 2.01 * grey_level
    assert (got - expected).abs().mean() <= 0.1 * grey_level


@pytest.mark.parametrize(
    ("file", "options", "expected"),
    [
        ("ViT-B-32-OpenAI.safetensors", "", True),
        ("other.safetensors", "", False),
        ("other.safetensors", ",quick_gelu=true", True),
        ("ViT-B-32-OpenAI.safetensors", ",quick_gelu=false", False),
    ],
)
def test_openai_weights_get_the_quick_gelu_unless_told_otherwise(
    monkeypatch, tmp_path, file, options, expected
):
    asked = {}

    def create_model(name, **options):
        asked.update(options)
        raise ValueError("enough seen")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    (tmp_path / file).write_bytes(b"no weights, which are not read")
    with pytest.raises(InputError, match="enough seen"):
        load_backbone(f"ViT-B-32:{tmp_path / file}{options}", layers=2)
    assert asked["force_quick_gelu"] == expected


def test_a_tag_says_whether_it_was_trained_with_the_quick_gelu(monkeypatch):
    monkeypatch.setattr(open_clip, "download_pretrained", lambda tag: "weights.safetensors")
    assert locate("ViT-B-32:openai").quick_gelu
    assert not locate("ViT-B-32:laion2b_s34b_b79k").quick_gelu


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def in_cache(hub: Path, repository: str) -> Path:
    """A folder for a repository's files in the hub's cache."""
    cached = hub / f"models--{repository.replace('/', '--')}"
    folder = cached / "snapshots" / "0123"
    folder.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    return folder


def test_a_repository_in_the_hubs_cache_needs_no_network(hub, folder, backbone):
    cached = in_cache(hub, "some/body")
    for file in folder.iterdir():
        (cached / file.name).symlink_to(file)
    found = load_backbone("hf-hub:some/body", layers=2, device="cpu", fetch=False)
    assert found.fingerprint == backbone.fingerprint


def test_a_tag_in_the_hubs_cache_needs_no_network(hub):
    file = in_cache(hub, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K") / "open_clip_model.safetensors"
    file.touch()
    assert locate("ViT-B-32:laion2b_s34b_b79k", fetch=False).weights == file


@pytest.mark.parametrize("name", ["hf-hub:some/body", "ViT-B-32:laion2b_s34b_b79k"])
def test_nothing_is_fetched_unasked(hub, name):
    with pytest.raises(InputError, match=r"not on this machine, .* not fetched unasked"):
        load_backbone(name, layers=2, fetch=False)


def test_the_end_of_a_sentence_that_has_no_room_is_named(backbone):
    text = "one two three four five six seven eight nine ten eleven twelve thirteen " * 2
    short, long, glued = backbone.unread(["a cat", text, "cat" * 100])
    assert short == ""
    assert long == "two three four five six seven eight nine ten eleven twelve thirteen"
    assert backbone.unread([text.removesuffix(f"{long} ")]) == [""]
    assert glued and set(glued) <= set("cat")


def with_options(folder: Path, options: str):
    return load_backbone(f"local-dir:{folder},{options}", layers=2, device="cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_arithmetic_gives_nearly_the_same_features(backbone, folder, frames, dtype):
    narrow = with_options(folder, f"dtype={dtype}")
    expected, found = backbone.encode_frames(frames), narrow.encode_frames(frames)
    assert not torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=0.05, atol=0.05)
    assert narrow.fingerprint == backbone.fingerprint


def test_pictures_may_be_larger_than_in_training(backbone, tmp_path, frames):
    folder = write_model(tmp_path / "model", dtype=torch.float32)  # open_clip resizes no fp16
    side = 2 * backbone.image_size[0]
    larger = with_options(folder, f"image_size={side}")
    assert larger.image_size == (side, side)
    assert larger.tokens_per_frame == 4 * (backbone.tokens_per_frame - 1) + 1
    assert larger.encode_frames(frames).tokens.shape[2] == larger.tokens_per_frame
    assert larger.fingerprint != backbone.fingerprint


@pytest.mark.parametrize(
    "option", ["channels_last=true", pytest.param("compile=true", marks=pytest.mark.slow)]
)
def test_what_makes_it_faster_changes_nothing(backbone, folder, frames, option):
    expected, found = (b.encode_frames(frames) for b in (backbone, with_options(folder, option)))
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("colour=red", "unknown option colour; expected one of dtype"),
        ("dtype=int8", "dtype is 'int8'; expected float32 or bfloat16 or float16"),
        ("image_size=big", "image_size is 'big'; expected 1 or more"),
        ("compile=maybe", "compile is 'maybe'; expected true or false"),
    ],
)
def test_wrong_options_are_refused_in_one_line(folder, option, reason):
    with pytest.raises(InputError, match=reason):
        with_options(folder, option)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nonsense", "no such open_clip model"),
        ("ViT-B-32", "names no weights; give ViT-B-32:PRETRAINED, one of openai"),
        ("ViT-B-32:nonsense", "nonsense is neither a file nor one of ViT-B-32's weights"),
        ("local-dir:/nowhere/at/all", "not found"),
    ],
)
def test_unknown_names_are_refused_in_one_line(name, reason):
    with pytest.raises(InputError, match=reason) as caught:
        load_backbone(name, layers=2)
    assert "\n" not in str(caught.value)


def test_more_layers_than_there_are_is_refused(folder):
    with pytest.raises(InputError, match="last 4 blocks"):
        load_backbone(f"local-dir:{folder}", layers=4)


def test_a_folder_without_weights_is_refused(folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    with pytest.raises(InputError, match="holds no weights"):
        load_backbone(f"local-dir:{tmp_path}", layers=2)
