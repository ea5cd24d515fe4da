"""The service's metrics, for Prometheus."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from genrank.server.deployment import RANKING
from genrank.server.queued_stage import QueueReport
from genrank.server.ranking_service import RankingService
from genrank.server.served_pipeline import PipelineOutcome

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
SIZES = (1, 10, 50, 100, 200, 500, 1000, 2000)


class Metrics:
    """Metrics in a separate registry, so that several services in one process don't mix."""

    def __init__(self, service: RankingService):
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("genrank_requests", "answered requests", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "genrank_request_seconds", "time to answer", ["route"], buckets=SECONDS, registry=registry
        )
        self.waited = Histogram("genrank_rank_waited_seconds", "time in the queue", buckets=SECONDS, registry=registry)
        self.worked = Histogram("genrank_rank_worked_seconds", "time of the batch", buckets=SECONDS, registry=registry)
        self.candidates = Histogram("genrank_rank_candidates", "candidates a ranking", buckets=SIZES, registry=registry)
        self.history = Counter("genrank_history_events", "history events seen by rankings", ["how"], registry=registry)
        self.events = Counter("genrank_events", "events that were new or changed", registry=registry)
        self.stage_seconds = Histogram(
            "genrank_stage_seconds", "time of a stage's batch", ["stage"], buckets=SECONDS, registry=registry
        )
        self.stage_waited = Histogram(
            "genrank_stage_waited_seconds", "time in a stage's queue", ["stage"], buckets=SECONDS, registry=registry
        )
        self.stage_candidates = Counter(
            "genrank_stage_candidates", "candidates into and out of a stage", ["stage", "end"], registry=registry
        )
        self.registry.register(_CurrentState(service))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def ran(self, outcome: PipelineOutcome) -> None:
        """Count a finished request of a pipeline."""
        for name, report in outcome.reports.items():
            self.stage_waited.labels(name).observe(report.waited)
            for each in report.stages:
                self.stage_seconds.labels(each.stage).observe(each.seconds)
                self.stage_candidates.labels(each.stage, "in").inc(each.num_in)
                self.stage_candidates.labels(each.stage, "out").inc(each.num_out)
        if RANKING in outcome.reports:
            self._ranked(outcome.reports[RANKING])

    def _ranked(self, report: QueueReport) -> None:
        seen = report.candidates.user
        self.waited.observe(report.waited)
        self.worked.observe(report.worked)
        self.candidates.observe(report.stages[0].num_in)
        self.history.labels("encoded").inc(seen.num_encoded)
        self.history.labels("kept").inc(seen.num_history - seen.num_encoded)


class _CurrentState(Collector):
    """Metrics that are read from the service when Prometheus asks."""

    def __init__(self, service: RankingService):
        self.service = service

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """See Collector."""
        counts = self.service.cache.counts()
        yield GaugeMetricFamily("genrank_cache_bytes", "bytes of encoded histories", counts.num_bytes)
        yield GaugeMetricFamily("genrank_cache_entries", "encoded histories", counts.entries)
        yield CounterMetricFamily("genrank_cache_hits", "look-ups that found a history", counts.hits)
        yield CounterMetricFamily("genrank_cache_misses", "look-ups that found no history", counts.misses)
        yield CounterMetricFamily("genrank_cache_evictions", "evicted histories", counts.evictions)
        yield GaugeMetricFamily(
            "genrank_expected_wait_seconds", "wait of a ranking that came now", self.service.stage.expected_wait
        )
        context = self.service.deployed.context
        yield GaugeMetricFamily("genrank_items", "known items", len(context.catalogue))
        added = context.catalogue.num_added
        yield GaugeMetricFamily("genrank_new_items", "items added since the data was prepared", added)
        decoded = context.histories.num_bytes
        yield GaugeMetricFamily("genrank_decoded_bytes", "bytes of histories before encoding", decoded)
        if context.statistics is not None:
            counted = context.statistics.live.num_events
            about = "events added to window statistics since the data was prepared"
            yield GaugeMetricFamily("genrank_counted_events", about, counted)
        if self.service.request_log is not None:
            yield CounterMetricFamily(
                "genrank_request_log_dropped", "rankings that were not logged", self.service.request_log.dropped
            )
        yield GaugeMetricFamily(
            "genrank_clock_behind_seconds", "time by which the clock was set back", self.service.clock.behind
        )
        left_out = GaugeMetricFamily("genrank_left_out", "stored entries that can't be read", labels=["kind"])
        for kind in ("event", "item"):
            parts = (context.left_out, self.service.store.left_out)
            left_out.add_metric([kind], sum(part.counts.get(kind, 0) for part in parts))
        yield left_out
        info = GaugeMetricFamily("genrank_model_info", "the model that ranks", labels=["version"])
        info.add_metric([self.service.version], 1)
        yield info
