"""Every benchmark that tells its FLOPs and bytes gets its percentage of the measured roofline."""

from __future__ import annotations

import pytest

from benchmarks.roofline import measure


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json: dict) -> None:
    """Add to each `extra_info`, as the JSON is written, the roofline measured in this run."""
    for result in output_json["benchmarks"]:
        told = result["extra_info"]
        if not {"flops", "bytes", "device", "dtype"} <= told.keys():
            continue
        roofline = measure(told["device"], told["dtype"])
        least = roofline.seconds(told["flops"], told["bytes"])
        in_memory = least == told["bytes"] / roofline.bandwidth
        told["roofline"] = {
            "percent": 100 * least / result["stats"]["median"],
            "bound": "memory" if in_memory else "arithmetic",
            **roofline._asdict(),
        }
