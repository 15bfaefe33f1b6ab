"""What this process counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

COMMITS = Counter("veg_programmer_commits_total", "Transactions sent to the Northbound database", ["result"])
COMMIT_SECONDS = Histogram(
    "veg_programmer_commit_seconds",
    "Time of a transaction",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
OPERATIONS = Counter("veg_programmer_operations_total", "Rows made, changed and removed", ["action"])
REPAIRS = Counter("veg_programmer_repairs_total", "Owners whose rows others had broken", ["kind"])
RESETS = Counter("veg_programmer_session_resets_total", "BFD sessions that were started afresh", ["why"])
CONNECTED = Gauge("veg_programmer_northbound_connected", "1 while the Northbound database is connected")
CONNECTIONS = Counter(
    "veg_programmer_northbound_connections_total",
    "Connections to a Northbound server whose copy became complete",
)
PENDING = Gauge("veg_programmer_pending", "Intents that wait for their transaction")
