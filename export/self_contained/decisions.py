"""From logits to probabilities and called findings, as nodes: `runtime.activation`, in its float64.

binary      p = softmax(z / T)[1]        multiclass  p = softmax(z / T)        multilabel  p = 1 / (1 + exp(-z / T))
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medfm_compress.export.self_contained.builder import GraphBuilder, Value
from medfm_compress.runtime.activation import DEFAULT_THRESHOLD
from medfm_compress.runtime.task import Task


class Decisions(NamedTuple):
    """``logits`` float32 ``[1, labels]``, ``probabilities`` float64 and ``findings`` bool, both ``[1, findings]``."""

    logits: Value
    probabilities: Value
    findings: Value


def add_decisions(graph: GraphBuilder, logits: Value, task: Task) -> Decisions:
    """Add activation, temperature and thresholds behind ``logits`` float32 ``[1, labels]``.

    The run fails where a logit is not finite or a probability is no number in [0, 1].
    """
    exact = graph.cast(logits, np.float64)
    largest = graph.constant(np.finfo(np.float32).max, np.float64)
    finite = graph.apply("LessOrEqual", graph.apply("Abs", exact), largest)  # NaN is not
    checked = graph.apply(
        "Add", exact, graph.cast(graph.refuse(graph.apply("Not", finite), "a logit is not finite"), np.float64)
    )
    scaled = graph.apply("Div", checked, graph.constant(task.temperature, np.float64))
    scores = _activated(graph, scaled, task)
    one, none = graph.constant(1, np.float64), graph.constant(0, np.float64)
    valid = graph.apply("And", graph.apply("GreaterOrEqual", scores, none), graph.apply("LessOrEqual", scores, one))
    certain = graph.refuse(graph.apply("Not", valid), "a probability is not a number in [0, 1]")
    scores = graph.apply("Add", scores, graph.cast(certain, np.float64))
    given = graph.cast(graph.apply("Add", checked, graph.cast(certain, np.float64)), np.float32)
    return Decisions(given, scores, _called(graph, scores, task))


def _activated(graph: GraphBuilder, scaled: Value, task: Task) -> Value:
    if task.independent:
        one = graph.constant(1, np.float64)
        return graph.apply("Div", one, graph.apply("Add", one, graph.apply("Exp", graph.apply("Neg", scaled))))
    softmax = graph.apply("Softmax", scaled, axis=1)
    return _from_second(graph, softmax) if task.kind == "binary" else softmax


def _called(graph: GraphBuilder, scores: Value, task: Task) -> Value:
    thresholds = {point.label: point.threshold for point in task.operating_points}
    limits = [[thresholds.get(finding, DEFAULT_THRESHOLD) for finding in task.findings]]
    called = graph.apply("GreaterOrEqual", scores, graph.constant(limits, np.float64))
    if task.kind != "multiclass":
        return called
    most = graph.apply("ArgMax", scores, axis=1, keepdims=1)
    likeliest = graph.apply("Equal", most, graph.constant([range(len(task.findings))], np.int64))
    pointed = np.array([[finding in thresholds for finding in task.findings]])
    # ONNX Runtime has no Where of bools.
    by_threshold = graph.apply("And", called, graph.constant(pointed, np.bool_))
    return graph.apply("Or", by_threshold, graph.apply("And", likeliest, graph.constant(~pointed, np.bool_)))


def _from_second(graph: GraphBuilder, values: Value) -> Value:
    starts, ends, axes = (graph.constant([number], np.int64) for number in (1, 2, 1))
    return graph.apply("Slice", values, starts, ends, axes)
