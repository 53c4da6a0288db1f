"""Tickets read from directories: what was compiled or found, as it was before it was saved."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from slth_compile.certificate import engine
from slth_compile.certificate.certificate import Certificate
from slth_compile.certificate.copies import ticket_pair
from slth_compile.certificate.witness import read_witness
from slth_compile.compiled import Compiled
from slth_compile.errors import InputError, UnsupportedModelError, VerificationError
from slth_compile.found import Found, load_found
from slth_compile.graph.check import check
from slth_compile.graph.fold import fold
from slth_compile.graph.graph import Graph
from slth_compile.plan.plan import predict
from slth_compile.summarise import measured_from_json, missing_from_stats
from slth_compile.ticket import format as ticket_format
from slth_compile.ticket.apply import effective_layers
from slth_compile.ticket.found import is_found


def load(directory: str | os.PathLike[str]) -> Compiled | Found:
    """The ticket in a directory; see `Compiled.save` and `Found.save`. Its truth is `verify`'s business.

    Digests are checked and nothing is unpickled.

    Raises:
        InputError: No ticket directory there.
        VerificationError: Damaged, or of an unknown format, version or generator.
    """
    return load_found(directory) if is_found(pathlib.Path(directory)) else _compiled(pathlib.Path(directory))


def _compiled(directory: pathlib.Path) -> Compiled:
    record = ticket_format.read(directory)
    try:
        for name in ("names", "planned_bound", "promise"):
            if name not in record.stats:
                raise missing_from_stats("it", name)
        graph = _named(check(record.graph), record.stats["names"])
        folded = fold(graph)
        layout = record.ticket.layout
        layers = effective_layers(folded, record.ticket)
        pair, errors = ticket_pair(folded, record.ticket, layers)
        return Compiled(
            graph=graph,
            folded=folded,
            plan=predict(folded, layout, float(record.stats["planned_bound"]), record.stats["promise"]),
            ticket=record.ticket,
            layers=layers,
            pair=pair,
            errors=errors,
            domains=record.domains,
            certificates=tuple(_certificate(entry, graph, record) for entry in record.certificates),
            measured=measured_from_json(record.stats),
            stated=record.stated,
        )
    except (InputError, UnsupportedModelError, *ticket_format.DAMAGED) as error:
        raise VerificationError("format", f"{directory}: damaged or not of this format ({error!r})") from error


def _certificate(entry: Mapping[str, Any], graph: Graph, record: ticket_format.Record) -> Certificate:
    """The certificate of an entry of `certificate.json`, with its witness."""
    found = Certificate.from_json(entry, graph)
    if found.method != engine.BRANCHED:
        return found
    return dataclasses.replace(found, witness=read_witness(record.witness, found.domain))


def _named(graph: Graph, names: Sequence[str]) -> Graph:
    nodes = [dataclasses.replace(node, name=str(name)) for node, name in zip(graph.nodes, names, strict=True)]
    return dataclasses.replace(graph, nodes=tuple(nodes))
