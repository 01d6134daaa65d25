"""Questions about one video and about all, and moments as files of other programs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from sdst.errors import InputError
from sdst.grounding.answers import Grounding
from sdst.grounding.export import FORMATS, ON_ONE_VIDEO
from sdst.grounding.export.moment import Moment
from sdst.serving.refusals import BAD_REQUEST, UNPROCESSABLE, Refused
from sdst.serving.routes.shared import Id, Served, faults
from sdst.serving.schemas import Answers, Export, Question, SearchAnswers, SearchQuestion
from sdst.serving.service import SearchAnswer, Service

router = APIRouter(prefix="/api", tags=["questions"])

DIGITS = 4  # of seconds, scores and saliency
MEDIA_TYPES = {".csv": "text/csv", ".json": "application/json", ".vtt": "text/vtt"}


@router.post(
    "/videos/{vid}/ground",
    response_model=Answers,
    responses=faults(
        _404="There is no such video.",
        _409="It is not encoded yet, or cannot be.",
        _503="Too many questions wait.",
    ),
)
async def ground(vid: Id, question: Question, service: Served) -> JSONResponse:
    """The moments of a video that each sentence describes. Questions that wait are batched."""
    answers = await _all(service.ground(vid, question.queries, question.top, question.min_presence))
    return JSONResponse({"answers": [_plain(answer) for answer in answers]})


@router.post(
    "/search",
    response_model=SearchAnswers,
    responses=faults(_409="No video is encoded yet.", _503="Too many questions wait."),
)
async def search(question: SearchQuestion, service: Served) -> JSONResponse:
    """The best moments across all videos for each sentence."""
    asked = service.search(question.queries, question.top, question.min_presence)
    answers = await _all(asked)
    pairs = zip(question.queries, answers, strict=True)
    return JSONResponse({"answers": [_named(service, *pair) for pair in pairs]})


@router.post(
    "/export",
    response_class=Response,
    responses=faults(_400="Subtitles of several videos.", _404="There is no such video."),
)
async def export(what: Export, service: Served) -> Response:
    """Moments as a table, subtitles, or an editor's time line."""
    ending = f".{what.format}"
    if ending in ON_ONE_VIDEO and len({moment.video for moment in what.moments}) > 1:
        raise Refused(BAD_REQUEST, f"format {what.format}: subtitles are of one video")
    moments = []
    for given in what.moments:
        video = service.library.find(given.video)
        moments.append(
            Moment(
                video.path, given.query, given.rank, given.start, given.end, given.score, video.name
            )
        )
    try:
        text = await run_sync(FORMATS[ending], moments)
    except InputError as error:
        raise Refused(UNPROCESSABLE, _without_paths(str(error), moments)) from None
    return Response(
        text,
        media_type=MEDIA_TYPES.get(ending, "text/plain"),
        headers={"Content-Disposition": f'attachment; filename="moments{ending}"'},
    )


async def _all(futures: Sequence[Future[Any]]) -> list[Any]:
    return await asyncio.gather(*map(asyncio.wrap_future, futures))


def _plain(answer: Grounding) -> dict[str, Any]:
    """An answer without what only the server knows of its video."""
    values = answer.to_dict()
    del values["video"]
    for key in ("windows", "moments"):
        values[key] = [[round(x, DIGITS) for x in window] for window in values[key]]
    values["saliency"] = [round(x, DIGITS) for x in values["saliency"]]
    return values


def _named(service: Service, query: str, answer: SearchAnswer) -> dict[str, Any]:
    names = {video.id: video.name for video in service.library.videos()}
    moments = [
        {
            "video": found.vid,
            "name": names[found.vid],
            "start": round(found.start, DIGITS),
            "end": round(found.end, DIGITS),
            "score": round(found.score, DIGITS),
            "presence": found.presence,
        }
        for found in answer.found
        if found.vid in names  # else it was removed meanwhile
    ]
    return {
        "query": query,
        "moments": moments,
        "searched": answer.searched,
        "encoded": answer.encoded,
        "skipped": len(answer.skipped),
    }


def _without_paths(line: str, moments: Sequence[Moment]) -> str:
    for moment in moments:
        line = line.replace(str(moment.video), moment.shown)
    return line
