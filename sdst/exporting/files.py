"""Writes the files of an exported model: the program, and beside it what it takes and gives."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from sdst.errors import InputError, one_line
from sdst.exporting.answering import Answering
from sdst.exporting.interface import interface, patches_of
from sdst.exporting.programs import (
    TOLERANCE,
    WRITERS,
    compare,
    expected,
    least_sizes,
    made_up,
    traced,
    tried_sizes,
)
from sdst.files.publish import publish, scratch_folder
from sdst.pretrained.folder import load_checkpoint

logger = logging.getLogger(__name__)


def export_model(checkpoint: str | Path, output: Path, format: str) -> float:
    """Export a model to `output`, and describe it in a JSON file of the same name.

    The program is loaded and run before it gets its name: with the sizes that it was traced with
    and two others it must answer as the model does.

    Args:
        checkpoint: as for `Grounder`.
        output: the file to write; what has its name is replaced.
        format: `pt2` or `onnx`.

    Returns:
        The greatest difference of an answer from the model's, of times in units of the video.

    Raises:
        InputError: there is no such model, it cannot be exported, or answers otherwise.
    """
    logger.info("loading %s", checkpoint)
    description, model = load_checkpoint(checkpoint)
    config = description.config
    _check_window(checkpoint, model.config.window, config.predict.stretches.clips)
    network = Answering(model.float().eval(), config.data.clip_length, config.predict).eval()
    patches = patches_of(description)
    least = least_sizes(network, patches)
    trials = tried_sizes(least, free_patches=patches is None)
    described = interface(str(checkpoint), network, description, least)
    logger.info("tracing it")
    try:
        program = traced(network, trials[0], free_patches=patches is None)
        with scratch_folder(output) as building:
            file, record = building / output.name, building / output.with_suffix(".json").name
            logger.info("writing it as %s", format)
            run = WRITERS[format](program, file, network.outputs)
            differences = []
            for sizes in trials:
                inputs = made_up(network, sizes)
                differences.append(compare(run(inputs), expected(network, inputs), inputs))
                logger.debug("%s: differs by %.1e", sizes, differences[-1])
                if not differences[-1] <= TOLERANCE:
                    raise InputError(
                        f"{output}: not written: with {_in_words(sizes)} the program answers "
                        f"otherwise than the model (by {differences[-1]:.1e}, expected at most "
                        f"{TOLERANCE:g}); try another format"
                    )
            described["program"] = {
                "file": output.name,
                "format": format,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "difference": max(differences),
            }
            record.write_text(json.dumps(described, indent=2) + "\n")
            publish(file, output)
            publish(record, output.with_suffix(".json"))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror or error})") from error
    except Exception as error:  # PyTorch, onnxscript and onnxruntime each have their own
        raise InputError(
            f"checkpoint {checkpoint}: cannot be exported to {format} ({one_line(error)})"
        ) from error
    return max(differences)


def _check_window(checkpoint: str | Path, window: int | None, clips: int) -> None:
    """Refuse a model that reads some videos through a window, and others without."""
    if window is not None and clips > window + 1:
        raise InputError(
            f"checkpoint {checkpoint}: model.window {window} is less than its videos of {clips} "
            "clips; such a model cannot be exported, train one without a window"
        )


def _in_words(sizes: tuple[int, ...]) -> str:
    return ", ".join(f"{n} {name}" for n, name in zip(sizes, _NAMES, strict=True))


_NAMES = ("samples", "clips", "patches", "words")
