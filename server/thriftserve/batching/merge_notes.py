"""Messages on requests that share runs, and on those that don't: in the log, and in a version's status.

Verdict --> "requests for 'serving_default' share runs of up to 64 rows …" | why not, and what to set
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from thriftserve.batching.calibration import Calibration
from thriftserve.batching.verdict import Verdict
from thriftserve.models.registry import Servable
from thriftserve.models.session import Signature

REMEDY = (
    "if sharing a run does no harm, set max_batch_size under [batching] in its model.toml or in the configuration "
    "of models (a Python class: batching = True)"
)

log = logging.getLogger(__name__)


def log_finding(
    servable: Servable, signature: Signature, verdict: Verdict, calibration: Calibration | None, *, declared: bool
) -> None:
    """Log what an examination has found."""
    title = f"model {servable.name} version {servable.version} {signature.name!r}"
    why = verdict.why_not(verdict.outputs)
    if calibration is not None:
        measured = ", ".join(f"{size}: {s * 1e3:.3g}" for size, s in calibration.s_a_row.items())
        log.info("%s: batch size %d (measured ms a row, by rows of a run: %s)", title, calibration.rows, measured)
    if not why:
        log.info(
            "%s: requests share runs of up to %d rows: %d inputs got the same answers alone and together (%.2f s)",
            title, verdict.rows, verdict.tried, verdict.took_s,
        )  # fmt: skip
    elif not declared:
        log.warning("%s: requests do not share runs: %s; %s", title, why, REMEDY)
    elif verdict.dependent:
        log.warning("%s: requests share runs because its settings say so, but %s", title, why)
    if servable.batching.pad_variable_length_inputs and verdict.unpadded and not why:
        log.warning("%s: requests of different sizes are not padded to share a run: %s", title, verdict.unpadded)


def in_words(signature: str, verdict: Verdict, declared: bool) -> str:
    """Return one line on what an examination has found."""
    why = verdict.why_not(verdict.outputs)
    if not why:
        return f"requests for {signature!r} share runs of up to {verdict.rows} rows where they meet"
    if declared:
        return f"requests for {signature!r} share runs because its settings say so, though not shown: {why}"
    return f"requests for {signature!r} do not share runs: {why}; {REMEDY}"


def log_stop(servable: Servable, why: str, *, dependent: bool) -> None:
    """Log that a running server had to stop merging a model's requests."""
    earlier = "; EARLIER ANSWERS MAY BE WRONG" if dependent else ""
    log.error(
        "model %s version %d: merging stopped in every process of this server: %s%s; %s",
        servable.name, servable.version, why, earlier, REMEDY,
    )  # fmt: skip


def of_stopped(why: str) -> str:
    """Return the status note of a model whose merging was stopped."""
    return f"merging stopped: {why}"


def of_verdicts(verdicts: Mapping[str, Verdict]) -> str:
    """Return the status note of a model's signatures; empty if all that could share runs do."""
    apart: dict[str, list[str]] = {}
    for signature, verdict in verdicts.items():
        for output, why in verdict.outputs.items():
            if why:
                every = all(verdict.outputs.values())
                apart.setdefault(why, []).append(repr(signature) if every else f"{output!r} of {signature!r}")
    notes = (f"requests for {', '.join(dict.fromkeys(names))} do not share runs: {why}" for why, names in apart.items())
    return "; ".join(notes) + (f"; {REMEDY}" if apart else "")
