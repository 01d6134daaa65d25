"""Options in the name of an open_clip backbone, behind the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sdst.backbones.options import parse_options

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Options:
    """A backbone's name, parsed: `MODEL[:PRETRAINED][,option=value...]`.

    Args:
        model: as for `load_backbone`, `demo` resolved.
        dtype: of the arithmetic under autocast: `float32` (none), `bfloat16` or `float16`; by
            default the last on a GPU, the first on a CPU. Features do not record which it was.
        image_size: pixels of a side that frames are resized to; the positions of the patches are
            interpolated, which PyTorch does not do in fp16 on a CPU: weights stored so are refused.
            By default what the model was trained with.
        quick_gelu: x * sigmoid(1.702 x) in place of GELU, which OpenAI's weights were trained with
            [P]; by default for the tags that open_clip knows to need it and for files named so.
        channels_last: keep frames with their channels together; pays for convolutions.
        compile: compile the vision tower by `torch.compile`, once a process.
    """

    model: str
    dtype: str = ""
    image_size: int | None = None
    quick_gelu: bool | None = None
    channels_last: bool = False
    compile: bool = False

    @classmethod
    def parse(cls, name: str) -> Options:
        """Read the name of a backbone."""
        kinds = {
            "dtype": tuple(DTYPES),
            "image_size": int,
            "quick_gelu": bool,
            "channels_last": bool,
            "compile": bool,
        }
        model, options = parse_options(name, kinds)
        return cls(model, **options)
