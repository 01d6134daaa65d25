"""A server's counters, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sdst.serving.jobs import Encodings, State
from sdst.serving.library import Library

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)
STATES: tuple[State, ...] = ("waiting", "encoding", "ready", "failed")


class Metrics:
    """Counters of one server, with a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = Counter(
            "sdst_requests", "Requests", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "sdst_request_seconds",
            "Time to the answer's last byte",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "sdst_batch_queries",
            "Queries answered together",
            ("kind",),
            buckets=SIZES,
            registry=self.registry,
        )
        self.uploaded = Counter("sdst_uploaded_bytes", "Bytes received", registry=self.registry)

    def watch(self, library: Library, encodings: Encodings) -> None:
        """Report the library's videos by the state of their jobs."""
        self.registry.register(_Videos(library, encodings))

    def text(self) -> bytes:
        """As `GET /metrics` answers."""
        return generate_latest(self.registry)


class _Videos(Collector):
    def __init__(self, library: Library, encodings: Encodings) -> None:
        self._library, self._encodings = library, encodings

    def collect(self) -> list[GaugeMetricFamily]:
        states = [self._encodings.of(video.id).state for video in self._library.videos()]
        family = GaugeMetricFamily("sdst_videos", "Videos of the library", labels=["state"])
        for state in STATES:
            family.add_metric([state], states.count(state))
        return [family]
