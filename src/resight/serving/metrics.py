"""What the server tells Prometheus, at /metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
GAUGES = {
    "queue_length": "Requests that wait for a worker.",
    "requests_in_flight": "Requests whose answer has not been sent.",
    "requests_running": "Requests that workers are at.",
    "workers_ready": "Worker processes that have loaded the model.",
    "model_version": "Version of the model that is served.",
}


class Metrics:
    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("resight_requests", "Requests.", ("route", "status"), registry=registry)
        told = "From the head of a request to its answer."
        self._seconds = Histogram("resight_request_seconds", told, ("route",), buckets=BUCKETS, registry=registry)
        told = "Time in the network."
        self._model = Histogram("resight_model_seconds", told, ("route",), buckets=BUCKETS, registry=registry)
        told = "Worker processes that ended and were replaced."
        self.worker_restarts = Counter("resight_worker_restarts", told, registry=registry)

    def watch(self, now: Mapping[str, Callable[[], float]]) -> None:
        """Tells the values of :data:`GAUGES`, of the moment they are asked for."""
        for name, text in GAUGES.items():
            Gauge(f"resight_{name}", text, registry=self._registry).set_function(now[name])

    def count(self, route: str, status: int, seconds: float, model_seconds: float) -> None:
        """A request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if model_seconds:
            self._model.labels(route).observe(model_seconds)

    def text(self) -> tuple[bytes, str]:
        """All of it, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
