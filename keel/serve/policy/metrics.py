"""What Prometheus is told. One registry a server: several may live in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

disable_created_metrics()  # a time beside every counter, which nobody reads


class Metrics:
    """Counters are named when they happen; gauges are set before each scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("keel_requests", "Requests by endpoint, arm and status", ["endpoint", "arm", "status"], registry=r)
        self.tokens = Counter("keel_tokens", "Tokens read (prompt) and drawn (completion)", ["kind", "arm"], registry=r)
        self.seconds = Histogram("keel_request_seconds", "From the request to its last byte", ["arm"], buckets=_SECONDS, registry=r)
        self.first_token = Histogram("keel_first_token_seconds", "From the request to its first token", ["arm"], buckets=_FIRST, registry=r)
        self.finished = Counter("keel_choices", "Answers by what ended them", ["finish_reason", "arm"], registry=r)
        self.refused = Counter("keel_refused", "Requests turned away: full, stopping, bad, key", ["why"], registry=r)
        self.left = Counter("keel_clients_left", "Requests whose client went away before the end", registry=r)
        self.moved = Counter("keel_moved", "Answers that went on after their worker had ended", ["to"], registry=r)
        self.filtered = Counter("keel_filter_hits", "Prompts and answers that a rule stopped", ["rule", "where"], registry=r)
        self.feedback = Counter("keel_feedback", "Thumbs, edits and votes; without consent none is stored", ["kind", "stored"], registry=r)
        self.shadows = Counter("keel_shadow_requests", "Requests given to the canary beside the stable arm", ["status"], registry=r)
        self.rollbacks = Counter("keel_rollbacks", "Canaries that were rolled back", registry=r)
        self.running = Gauge("keel_rows_running", "Answers that are being drawn", registry=r)
        self.waiting = Gauge("keel_rows_waiting", "Answers that wait for a place", registry=r)
        self.up = Gauge("keel_arm_up", "1 while the arm's engine can be asked", ["arm"], registry=r)
        self.restarts = Gauge("keel_worker_restarts", "Starts of the arm's worker after the first", ["arm"], registry=r)
        self.share = Gauge("keel_canary_share", "Share of the keys that the canary answers now", registry=r)
        self.drift = Gauge("keel_drift", "Distance of the last window from the reference, in nats", ["what"], registry=r)
        self.drift_p = Gauge("keel_drift_p", "Share of shuffled windows at least as far away", ["what"], registry=r)
        self.drift_alarms = Counter("keel_drift_alarms", "Windows unlike the reference", ["what"], registry=r)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)
