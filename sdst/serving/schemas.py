"""Fields of requests and answers, as the OpenAPI page shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

from sdst.serving.jobs import State

Query = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
Queries = Annotated[list[Query], Field(min_length=1, max_length=64)]
VideoId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
Format = Literal["csv", "json", "srt", "vtt", "edl", "otio", "fcpxml"]  # `export.FORMATS`
Seconds = Annotated[FiniteFloat, Field(ge=0)]
Presence = Annotated[FiniteFloat, Field(ge=0, le=1)]


class _Strict(BaseModel):
    """A request; a mistyped key is an error."""

    model_config = ConfigDict(extra="forbid")


class Fault(BaseModel):
    """Every answer that is no success."""

    error: str = Field(description="One line: what was found, what was expected, what to do.")


class About(BaseModel):
    """The server and its limits."""

    version: str
    model: str
    device: str
    demo: bool = Field(description="The model knows the demo's rendered shapes only.")
    clip_length: float = Field(description="Seconds per clip of the saliency curve.")
    presence: bool = Field(description="The model tells whether a video has what is asked for.")
    formats: list[str] = Field(description="Formats of an export.")
    max_upload: int = Field(description="Bytes.")


class VideoOut(BaseModel):
    """A video of the library."""

    id: str
    name: str
    size: int = Field(description="Bytes.")
    duration: float = Field(description="Seconds.")
    fps: float
    width: int
    height: int
    added: float = Field(description="Seconds since the epoch.")
    removable: bool = Field(description="False for a file that is served from its folder.")
    state: State = Field(description="Questions are answered once it is `ready`.")
    progress: float = Field(description="Share that is encoded, 0 to 1.")
    error: str = Field(description="Why encoding failed; else empty.")


class Question(_Strict):
    """Sentences about one video."""

    queries: Queries
    top: int = Field(5, ge=1, le=100, description="Most windows per sentence.")
    min_presence: Presence = Field(0.0, description="No moments where the presence is less.")


class SearchQuestion(_Strict):
    """Sentences about all videos."""

    queries: Queries
    top: int = Field(10, ge=1, le=100, description="Most moments per sentence.")
    min_presence: Presence = Field(0.0, description="Leave out videos with less presence.")


class Answer(BaseModel):
    """The moments of one video that a sentence describes."""

    query: str
    moments: list[list[float]] = Field(
        description="[start, end, score], seconds, best first; each moment once."
    )
    windows: list[list[float]] = Field(description="All that the model gave, as `moments`.")
    presence: float | None = Field(
        description="Probability that the video has it; null where the model has no presence."
    )
    saliency: list[float] = Field(description="How well each clip fits, in [-1, 1].")
    clip_length: float = Field(description="Seconds per clip.")
    duration: float = Field(description="Seconds.")
    unread: str = Field(description="The end of a sentence that is too long to be read.")


class Answers(BaseModel):
    """One for every sentence, in their order."""

    answers: list[Answer]


class FoundMoment(BaseModel):
    """A moment of one of the videos."""

    video: str = Field(description="Its id.")
    name: str = Field(description="Its name.")
    start: float
    end: float
    score: float
    presence: float | None = Field(description="As in an answer about its video.")


class SearchResult(BaseModel):
    """The best moments for one sentence."""

    query: str
    moments: list[FoundMoment]
    searched: int = Field(description="Videos that were looked through.")
    encoded: int = Field(description="Videos that are encoded; an index may rule out some.")
    skipped: int = Field(description="Videos that could not be read.")


class SearchAnswers(BaseModel):
    """One for every sentence, in their order."""

    answers: list[SearchResult]


class ExportedMoment(_Strict):
    """A moment to export."""

    video: VideoId
    query: Query
    rank: int = Field(ge=1)
    start: Seconds
    end: Seconds
    score: FiniteFloat


class Export(_Strict):
    """Moments as a file of another program."""

    format: Format
    moments: Annotated[list[ExportedMoment], Field(min_length=1, max_length=1000)]


class Login(_Strict):
    """The server's token, for a cookie that the page's players and pictures send."""

    token: Annotated[str, StringConstraints(max_length=1000)]
