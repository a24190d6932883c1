"""The commands of thriftserve-client.

Client, Namespace --command--> Report: data for --json, text for people
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from thriftserve_client import results
from thriftserve_client.cli.runs import classify, detect, predict
from thriftserve_client.cli.tables import Report, amount, duration, mebibytes, pairs, table
from thriftserve_client.client import Client
from thriftserve_client.control import Control
from thriftserve_client.histogram import Histogram


def _ping(client: Client, flags: Namespace) -> Report:
    if flags.wait is not None:
        client.wait_for_ready(flags.wait)
    start = time.monotonic()
    client.ping()
    elapsed_ms = (time.monotonic() - start) * 1e3
    return Report({"ok": True, "elapsed_ms": round(elapsed_ms, 3)}, f"ok, {elapsed_ms:.1f} ms including connecting")


def _status(client: Client, _: Namespace) -> Report:
    status = client.server_status()
    answered = status.past_requests + sum(worker.requests for worker in status.workers)
    failed = status.past_errors + sum(worker.errors for worker in status.workers)
    facts = [
        ("state", status.state),
        ("server type", status.server_type),
        ("version", status.version),
        ("pid", str(status.pid)),
        ("up", duration(status.uptime_s)),
        ("models", ", ".join(status.models) or "none"),
        ("requests", f"{answered} answered, {failed} of them with an error, {status.refused} refused"),
    ]
    if status.queued is not None:
        facts.append(("queued", f"{status.queued} requests, {status.queued_bytes or 0} bytes"))
    blocks = [pairs(facts), _histogram_table(status.histograms), _worker_table(status.workers)]
    return Report(asdict(status), "\n\n".join(filter(None, blocks)))


def _histogram_table(histograms: tuple[Histogram, ...]) -> str:
    headings = ("of requests run", "count", "p50", "p99", "mean")
    rows = [
        (
            histogram.name.replace("_", " "),
            str(histogram.count),
            _percentile(histogram, 0.5),
            _percentile(histogram, 0.99),
            _mean(histogram),
        )
        for histogram in histograms
    ]
    return table(headings, rows, right=headings[1:]) if rows else ""


def _percentile(histogram: Histogram, share: float) -> str:
    """Return a percentile as the bound of its bucket."""
    if not histogram.count:
        return "-"
    bound = histogram.bound_of(share)
    if bound is None:
        return f"> {amount(histogram.bounds[-1], histogram.unit)}"
    return f"<= {amount(bound, histogram.unit)}"


def _mean(histogram: Histogram) -> str:
    return amount(histogram.mean, histogram.unit) if histogram.count else "-"


def _worker_table(workers: tuple[results.WorkerStatus, ...]) -> str:
    """Return a row for each process; columns for roles and notes only if some process has worker."""
    roles = any(worker.role != "worker" for worker in workers)
    notes = any(worker.note for worker in workers)
    headings = ("worker", "pid", "state", "device", "memory", "cpu", "up", "requests", "errors", "in flight", "conns")
    rows = [
        (
            str(worker.index),
            str(worker.pid),
            worker.state,
            worker.device,
            mebibytes(worker.rss_bytes),
            f"{worker.cpu_s:.1f} s",
            duration(worker.uptime_s),
            str(worker.requests),
            str(worker.errors),
            str(worker.in_flight),
            str(worker.connections),
            *([worker.role] if roles else ()),
            *([worker.note] if notes else ()),
        )
        for worker in workers
    ]
    more = (*(("role",) if roles else ()), *(("note",) if notes else ()))
    right = set(headings) - {"state", "device"}
    return table((*headings, *more), rows, right=right) if rows else "no workers"


def models_report(client: Client) -> Report:
    """Return what `models` and `status --watch` print: the versions of every model."""
    return _states(client.models())


def _models(client: Client, _: Namespace) -> Report:
    return models_report(client)


def _states(models: list[results.ModelStatus]) -> Report:
    rows = [
        (model.name, str(version.version), version.state, ", ".join(version.labels), failure(version) or version.note)
        for model in models
        for version in model.versions
    ]
    text = table(("model", "version", "state", "labels", "error or note"), rows, right={"version"})
    return Report([asdict(model) for model in models], text if rows else "no models")


def failure(version: results.VersionStatus) -> str:
    """Return why a version failed, in words; "" if it did not."""
    return f"{version.error}: {version.error_message}" if version.error else version.error_message


def _metadata(client: Client, arguments: Namespace) -> Report:
    metadata = client.metadata(arguments.model, version=arguments.version, label=arguments.label)
    blocks = [f"{metadata.model} version {metadata.version}, {metadata.platform}"]
    for signature in metadata.signatures.values():
        rows = [("input", *_tensor_row(info)) for info in signature.inputs.values()]
        rows += [("output", *_tensor_row(info)) for info in signature.outputs.values()]
        method = f" ({signature.method_name})" if signature.method_name else ""
        blocks.append(f"{signature.name}{method}\n{table(('', 'name', 'type', 'shape'), rows)}")
    if metadata.labels:
        labels = ", ".join(metadata.labels[:20]) + (", …" if len(metadata.labels) > 20 else "")
        blocks.append(f"{len(metadata.labels)} labels: {labels}")
    return Report(_metadata_data(metadata), "\n\n".join(blocks))


def _tensor_row(info: results.TensorInfo) -> tuple[str, str, str]:
    if info.shape is None:
        return info.name, info.dtype.name, "any"
    return info.name, info.dtype.name, f"[{', '.join('?' if size is None else str(size) for size in info.shape)}]"


def _metadata_data(metadata: results.ModelMetadata) -> Any:
    data = asdict(metadata)
    for signature in data["signatures"].values():
        for info in (*signature["inputs"].values(), *signature["outputs"].values()):
            info["dtype"] = info["dtype"].name
    return data


def _load(control: Control, arguments: Namespace) -> Report:
    return _states(
        [control.load(arguments.model, arguments.source, version=arguments.version, sha256=arguments.sha256)]
    )


def _unload(control: Control, arguments: Namespace) -> Report:
    return _states([control.unload(arguments.model, version=arguments.version)])


def _label(control: Control, arguments: Namespace) -> Report:
    version, allow = arguments.to_version, arguments.allow_unavailable
    return _states([control.set_label(arguments.model, arguments.label, version, allow_unavailable=allow)])


def _reload(control: Control, _: Namespace) -> Report:
    control.reload()
    return Report({"ok": True}, "begun")


#: Commands for the control port.
CONTROL_COMMANDS: dict[str, Callable[[Control, Namespace], Report]] = {
    "load": _load,
    "unload": _unload,
    "label": _label,
    "reload": _reload,
}
COMMANDS: dict[str, Callable[[Client, Namespace], Report]] = {
    "ping": _ping,
    "status": _status,
    "models": _models,
    "metadata": _metadata,
    "predict": predict,
    "classify": classify,
    "detect": detect,
}
