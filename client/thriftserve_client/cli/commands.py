"""The commands of thriftserve-client.

Client + Namespace --command--> Report(data for --json, text for people)
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


def _ping(client: Client, _: Namespace) -> Report:
    begun = time.monotonic()
    client.ping()
    elapsed_ms = (time.monotonic() - begun) * 1e3
    return Report({"ok": True, "elapsed_ms": round(elapsed_ms, 3)}, f"ok, {elapsed_ms:.1f} ms with connecting")


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
    blocks = [pairs(facts), _figures(status.histograms), _workers(status.workers)]
    return Report(asdict(status), "\n\n".join(filter(None, blocks)))


def _figures(histograms: tuple[Histogram, ...]) -> str:
    headings = ("of requests run", "count", "p50", "p99", "mean")
    rows = [
        (each.name.replace("_", " "), str(each.count), _within(each, 0.5), _within(each, 0.99), _mean(each))
        for each in histograms
    ]
    return table(headings, rows, right=headings[1:]) if rows else ""


def _within(one: Histogram, share: float) -> str:
    """A percentile as the bound of its bucket."""
    if not one.count:
        return "-"
    bound = one.bound_of(share)
    return f"> {amount(one.bounds[-1], one.unit)}" if bound is None else f"<= {amount(bound, one.unit)}"


def _mean(one: Histogram) -> str:
    return amount(one.mean, one.unit) if one.count else "-"


def _workers(workers: tuple[results.WorkerStatus, ...]) -> str:
    """A row for each process; what it does and the notes only where there is something to tell."""
    roles = any(one.role != "worker" for one in workers)
    notes = any(one.note for one in workers)
    headings = ("worker", "pid", "state", "device", "memory", "cpu", "up", "requests", "errors", "in flight", "conns")
    rows = [
        (
            str(one.index),
            str(one.pid),
            one.state,
            one.device,
            mebibytes(one.rss_bytes),
            f"{one.cpu_s:.1f} s",
            duration(one.uptime_s),
            str(one.requests),
            str(one.errors),
            str(one.in_flight),
            str(one.connections),
            *([one.role] if roles else ()),
            *([one.note] if notes else ()),
        )
        for one in workers
    ]
    more = (*(("role",) if roles else ()), *(("note",) if notes else ()))
    right = set(headings) - {"state", "device"}
    return table((*headings, *more), rows, right=right) if rows else "no workers"


def watched(client: Client) -> Report:
    """What `status --watch` shows again and again: the versions of every model."""
    return _models(client, Namespace())


def _models(client: Client, _: Namespace) -> Report:
    return _states(client.models())


def _states(models: list[results.ModelStatus]) -> Report:
    rows = [
        (model.name, str(one.version), one.state, ", ".join(one.labels), _failure(one) or one.note)
        for model in models
        for one in model.versions
    ]
    text = table(("model", "version", "state", "labels", "error or note"), rows, right={"version"})
    return Report([asdict(model) for model in models], text if rows else "no models")


def _failure(version: results.VersionStatus) -> str:
    return f"{version.error}: {version.error_message}" if version.error else version.error_message


def _metadata(client: Client, arguments: Namespace) -> Report:
    found = client.metadata(arguments.model, version=arguments.version, label=arguments.label)
    blocks = [f"{found.model} version {found.version}, {found.platform}"]
    for signature in found.signatures.values():
        rows = [("input", *_tensor(one)) for one in signature.inputs.values()]
        rows += [("output", *_tensor(one)) for one in signature.outputs.values()]
        method = f" ({signature.method_name})" if signature.method_name else ""
        blocks.append(f"{signature.name}{method}\n{table(('', 'name', 'type', 'shape'), rows)}")
    if found.labels:
        shown = ", ".join(found.labels[:20]) + (", …" if len(found.labels) > 20 else "")
        blocks.append(f"{len(found.labels)} labels: {shown}")
    return Report(_metadata_data(found), "\n\n".join(blocks))


def _tensor(one: results.TensorInfo) -> tuple[str, str, str]:
    if one.shape is None:
        return one.name, one.dtype.name, "any"
    return one.name, one.dtype.name, f"[{', '.join('?' if size is None else str(size) for size in one.shape)}]"


def _metadata_data(found: results.ModelMetadata) -> Any:
    data = asdict(found)
    for signature in data["signatures"].values():
        for one in (*signature["inputs"].values(), *signature["outputs"].values()):
            one["dtype"] = one["dtype"].name
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


#: What goes to the control port.
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
