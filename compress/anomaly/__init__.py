"""Anomaly models: a scorer is fitted on the embeddings of normal cases."""
