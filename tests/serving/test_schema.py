"""Requests made of the server's own OpenAPI description, valid and not: nothing is a fault of the
server, and every answer has a status, a type and a body that the description holds."""

from __future__ import annotations

import pytest

pytest.importorskip("schemathesis", reason="needs pip install 'sdst[test]'")

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import negative_data_rejection, positive_data_acceptance
from schemathesis.core.result import Ok

from tests.serving.running import Running

# A request may fit the description and still make no sense (a clip that ends before it starts), and
# one whose id alone was wrong is right about the video that is there.
EXCLUDED = [positive_data_acceptance, negative_data_rejection]


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("known", [True, False], ids=["known-video", "any-video"])
def test_answers_are_as_described(
    server: Running, vid: str, mode: GenerationMode, known: bool
) -> None:
    description = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    for result in description.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        if mode.is_negative and not [*operation.iter_parameters(), *operation.body]:
            continue  # nothing to do wrong

        @settings(
            max_examples=10,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def validate(case: schemathesis.Case) -> None:
            if known and "vid" in case.path_parameters:
                case.path_parameters["vid"] = vid
            case.call_and_validate(excluded_checks=EXCLUDED)

        validate()
