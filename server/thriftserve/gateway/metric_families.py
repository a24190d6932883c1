"""Every metric of /metrics, defined once: name, kind, labels, help.

FAMILIES --> counters of metrics, collectors of metrics_servers, the tables of docs/reference/metrics.md
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One metric.

    Attributes:
        name: as in queries; a counter's ends in _total.
        kind: "counter", "gauge", "histogram" or "info".
        help: one sentence for people.
        labels: names of its labels.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


_WHAT = ("model", "method")
_PROCESS = ("pid",)
_SERVER = ("backend",)
_PLACE = ("backend", "role", "worker")
_WORKER = (*_PLACE, "pid")

REQUESTS = Family(
    "thriftserve_gateway_requests_total",
    "counter",
    "HTTP requests answered, by status code.",
    ("model", "version", "method", "code"),
)
DURATION = Family(
    "thriftserve_gateway_request_duration_seconds",
    "histogram",
    "Time from a request's arrival until its reply was ready.",
    _WHAT,
)
RECEIVED = Family(
    "thriftserve_gateway_received_bytes_total", "counter", "Bytes of requests' bodies, as received.", _WHAT
)
SENT = Family("thriftserve_gateway_sent_bytes_total", "counter", "Bytes of replies' bodies.", _WHAT)
IN_FLIGHT = Family("thriftserve_gateway_requests_in_flight", "gauge", "HTTP requests in flight now.")
SHED = Family(
    "thriftserve_gateway_requests_shed_total",
    "counter",
    'Requests rejected for load: by the gateway\'s own limit ("gateway") or by full queues behind it ("server").',
    ("by",),
)
EXPIRED = Family("thriftserve_gateway_deadline_exceeded_total", "counter", "Requests that exceeded their deadline.")
PROCESS_MEMORY = Family(
    "thriftserve_gateway_process_resident_memory_bytes", "gauge", "Resident memory of a gateway process.", _PROCESS
)
PROCESS_CPU = Family(
    "thriftserve_gateway_process_cpu_seconds_total",
    "counter",
    "CPU time, user and system, of a gateway process.",
    _PROCESS,
)

UP = Family("thriftserve_up", "gauge", "1 if the server answers, else 0.", _SERVER)
INFO = Family("thriftserve_server_info", "info", "What the server is; always 1.", ("backend", "server_type", "version"))
STATE = Family(
    "thriftserve_server_state",
    "gauge",
    "1 for the state that the server is in, 0 for the others.",
    ("backend", "state"),
)
UPTIME = Family("thriftserve_uptime_seconds", "gauge", "Time since the server started.", _SERVER)
SERVED = Family("thriftserve_requests_total", "counter", "Requests that the server's workers answered.", _SERVER)
FAILED = Family("thriftserve_errors_total", "counter", "Requests that were answered with an error.", _SERVER)
RUNNING = Family(
    "thriftserve_requests_in_flight", "gauge", "Requests that the server's workers are running now.", _SERVER
)
CONNECTIONS = Family("thriftserve_connections", "gauge", "Connections to the server that are open now.", _SERVER)
REFUSED = Family(
    "thriftserve_refused_total", "counter", "Connections and requests refused because a limit was reached.", _SERVER
)
QUEUED = Family("thriftserve_queued_requests", "gauge", "Requests that wait for a worker now.", _SERVER)
QUEUED_BYTES = Family("thriftserve_queued_bytes", "gauge", "Bytes of the requests that wait.", _SERVER)
QUEUE_TIME = Family(
    "thriftserve_queue_time_seconds", "histogram", "Time from a request's arrival until its run began.", _SERVER
)
COMPUTE_TIME = Family(
    "thriftserve_compute_time_seconds", "histogram", "Time in the model of the run that answered a request.", _SERVER
)
BATCH_SIZE = Family(
    "thriftserve_batch_size_rows", "histogram", "Rows in the run that answered a request, others' included.", _SERVER
)
RESTARTS = Family(
    "thriftserve_worker_restarts_total",
    "counter",
    "Times that the process with this role and number was replaced.",
    _PLACE,
)
WORKER_MEMORY = Family(
    "thriftserve_worker_resident_memory_bytes", "gauge", "Resident memory of a process of the server.", _WORKER
)
WORKER_CPU = Family(
    "thriftserve_worker_cpu_seconds_total", "counter", "CPU time, user and system, of a process of the server.", _WORKER
)
WORKER_STATE = Family(
    "thriftserve_worker_state",
    "gauge",
    "1 for the state that the process is in; its other states are absent.",
    (*_WORKER, "state"),
)
MODEL_STATE = Family(
    "thriftserve_model_state",
    "gauge",
    "1 for the state that the version is in, 0 for the others.",
    ("backend", "model", "version", "state"),
)
MODEL_LOAD = Family(
    "thriftserve_model_load_seconds",
    "gauge",
    "Time to load and warm up the version, in the worker that did so last.",
    ("backend", "model", "version"),
)
MODEL_TRANSITIONS = Family(
    "thriftserve_model_transitions_total",
    "counter",
    "Times that a version of the model came into the state.",
    ("backend", "model", "state"),
)

GATEWAY = (REQUESTS, DURATION, RECEIVED, SENT, IN_FLIGHT, SHED, EXPIRED, PROCESS_MEMORY, PROCESS_CPU)
SERVER = (
    UP, INFO, STATE, UPTIME, SERVED, FAILED, RUNNING, CONNECTIONS, REFUSED, QUEUED, QUEUED_BYTES,
    QUEUE_TIME, COMPUTE_TIME, BATCH_SIZE, RESTARTS, WORKER_MEMORY, WORKER_CPU, WORKER_STATE, MODEL_STATE,
    MODEL_LOAD, MODEL_TRANSITIONS,
)  # fmt: skip
FAMILIES = GATEWAY + SERVER


def row(family: Family) -> str:
    """Return the family's row in docs/reference/metrics.md."""
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help} |".replace("|  |", "| |")
