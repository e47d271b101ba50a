"""Measure, evaluate, infer, judge and report. Never imports torch."""
