"""Every benchmark that reports FLOPs and bytes gets its percentage of the measured roofline."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measuring.roofline import measure
from sdst.kernels import library


@pytest.fixture(params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest) -> torch.dtype:
    """Of products."""
    if request.param == "bf16" and not library.multiplies_bf16():
        pytest.skip("this CPU has no bf16 matrix multiplies (AVX512_BF16)")
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[request.param]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json: dict) -> None:
    """Add to each `extra_info`, as the JSON is written, the roofline measured in this run."""
    for result in output_json["benchmarks"]:
        info = result["extra_info"]
        if not {"flops", "bytes", "device", "dtype"} <= info.keys():
            continue
        roofline = measure(info["device"], info["dtype"])
        least = roofline.seconds(info["flops"], info["bytes"])
        in_memory = least == info["bytes"] / roofline.bandwidth
        info["roofline"] = {
            "percent": 100 * least / result["stats"]["median"],
            "bound": "memory" if in_memory else "arithmetic",
            **roofline._asdict(),
        }
