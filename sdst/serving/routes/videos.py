"""The library: upload, list, play, delete."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from PIL import Image
from starlette.background import BackgroundTask

from sdst.data.video import frame_at
from sdst.errors import InputError
from sdst.grounding.export.clips import cut
from sdst.grounding.export.moment import Moment
from sdst.grounding.recent import Recent
from sdst.serving.library import Video, check_size, renamed
from sdst.serving.refusals import BAD_REQUEST, NOT_FOUND, TIMEOUT, UNPROCESSABLE, Refused
from sdst.serving.routes.shared import Id, Served, faults
from sdst.serving.schemas import Seconds, VideoOut
from sdst.serving.service import Service

router = APIRouter(prefix="/api/videos", tags=["videos"])

PATIENCE = 60  # seconds for the next bytes of an upload
THUMBNAIL_HEIGHT = 180  # pixels
THUMBNAILS = 512  # kept in memory, some 8 kB each
DECODERS = 2  # thumbnails that are decoded at a time
LONGEST_CLIP = 600  # seconds
FOREVER = "private, max-age=604800, immutable"  # an id never comes again with other content

MISSING = faults(_404="There is no such video.")


@router.get("")
async def list_videos(service: Served) -> list[VideoOut]:
    """The library, the newest video first."""
    return [_shown(service, video) for video in service.library.videos()]


@router.post(
    "",
    status_code=201,
    responses=faults(
        _408="The upload stalled.",
        _413="The file is too large.",
        _422="It is no video.",
        _503="Too many uploads, or videos that wait.",
        _507="The disk is full.",
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The file's bytes.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def upload_video(
    request: Request,
    service: Served,
    name: Annotated[str, Query(max_length=1000, description="Of the file, for people.")] = "video",
) -> VideoOut:
    """Upload a video: its bytes are the body. It is encoded in the background."""
    service.begin_upload()
    try:
        check_size(_stated_length(request), service.library.max_bytes)
        with service.library.receive(name) as upload:
            stream = request.stream()
            while True:
                try:
                    with anyio.fail_after(PATIENCE):
                        data = await anext(stream, None)
                except TimeoutError:
                    raise Refused(TIMEOUT, f"nothing came for {PATIENCE} s; try again") from None
                if data is None:
                    break
                service.metrics.uploaded.inc(len(data))
                await run_sync(upload.write, data)
            video = await run_sync(upload.finish)
    finally:
        service.end_upload()
    service.encodings.add(video)
    return _shown(service, video)


@router.get("/{vid}", responses=MISSING)
async def get_video(vid: Id, service: Served) -> VideoOut:
    """A video, and how far its encoding is."""
    return _shown(service, service.library.find(vid))


@router.delete(
    "/{vid}",
    status_code=204,
    responses=MISSING | faults(_409="It is served from a folder of others."),
)
def delete_video(vid: Id, service: Served) -> None:
    """Delete an uploaded video with all that was made of it."""
    service.remove(vid)


@router.get("/{vid}/file", response_class=FileResponse, responses=MISSING)
async def play_video(vid: Id, service: Served) -> FileResponse:
    """The file, or the part of it that the Range header asks for."""
    video = _present(service.library.find(vid))
    return FileResponse(
        video.path,
        media_type=video.media_type,
        filename=video.name,
        content_disposition_type="inline",
        headers={"Cache-Control": "private, max-age=3600"},
    )


@router.get(
    "/{vid}/thumbnail",
    response_class=Response,
    responses=MISSING | {200: {"content": {"image/jpeg": {}}}},
)
async def show_frame(
    request: Request,
    vid: Id,
    service: Served,
    at: Annotated[Seconds, Query(description="Seconds.")] = 0.0,
) -> Response:
    """The frame at a second, as a small JPEG picture."""
    video = _present(service.library.find(vid))
    state = request.app.state
    picture = await run_sync(
        _thumbnail,
        state.thumbnails,
        video,
        round(min(at, video.duration), 1),
        limiter=state.decoders,
    )
    return Response(picture, media_type="image/jpeg", headers={"Cache-Control": FOREVER})


@router.get(
    "/{vid}/clip",
    response_class=FileResponse,
    responses=MISSING | faults(_400="It ends before it starts, or is too long."),
)
async def cut_clip(
    request: Request,
    vid: Id,
    service: Served,
    start: Annotated[Seconds, Query(description="Seconds.")],
    end: Annotated[Seconds, Query(description="Seconds.")],
) -> FileResponse:
    """A part of a video as an MP4 file of its own, with its sound."""
    video = _present(service.library.find(vid))
    if not start < end or end - start > LONGEST_CLIP:
        raise Refused(
            BAD_REQUEST, f"start {start:g}, end {end:g}: expected 0 to {LONGEST_CLIP} s in between"
        )
    moment = Moment(video.path, "", 1, start, min(end, video.duration), 0.0)
    folder = tempfile.TemporaryDirectory(prefix="sdst-clip-")
    out = Path(folder.name) / "clip.mp4"
    try:
        await run_sync(_cut, moment, out, video, limiter=request.app.state.cutters)
    except BaseException:
        folder.cleanup()
        raise
    name = f"{Path(video.name).stem}.{start:.0f}-{end:.0f}.mp4"
    return FileResponse(
        out, media_type="video/mp4", filename=name, background=BackgroundTask(folder.cleanup)
    )


def limits() -> dict[str, object]:
    """The state of an app that these routes need."""
    return {
        "thumbnails": Recent[tuple[str, float], bytes](THUMBNAILS),
        "decoders": anyio.CapacityLimiter(DECODERS),
        "cutters": anyio.CapacityLimiter(1),
    }


def _shown(service: Service, video: Video) -> VideoOut:
    values = asdict(video) | asdict(service.encodings.of(video.id))
    return VideoOut(**{key: values[key] for key in VideoOut.model_fields})


def _present(video: Video) -> Video:
    """A video whose file exists; others may have been deleted.

    Raises:
        Refused: it is not.
    """
    if not video.path.is_file():
        raise Refused(NOT_FOUND, f"{video.name}: its file is gone")
    return video


def _stated_length(request: Request) -> int:
    stated = request.headers.get("content-length", "0")
    return int(stated) if stated.isdecimal() else 0


def _thumbnail(kept: Recent[tuple[str, float], bytes], video: Video, second: float) -> bytes:
    def decode() -> bytes:
        try:
            pixels = frame_at(video.path, second, THUMBNAIL_HEIGHT)
        except InputError as error:
            raise Refused(UNPROCESSABLE, renamed(error, video.path, video.name)) from None
        picture = BytesIO()
        Image.fromarray(pixels).save(picture, "JPEG", quality=80)
        return picture.getvalue()

    return kept.get((video.id, second), decode)


def _cut(moment: Moment, out: Path, video: Video) -> None:
    try:
        cut(moment, out)
    except InputError as error:
        line = renamed(error, video.path, video.name).replace(f"{out}: ", "")
        raise Refused(UNPROCESSABLE, line) from None
