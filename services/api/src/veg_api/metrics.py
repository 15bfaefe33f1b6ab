"""What this process counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

WRITES = Counter("veg_api_writes_total", "Objects created, changed and deleted", ["kind", "verb"])
LEADER = Gauge("veg_api_leader", "1 while this process leads")
