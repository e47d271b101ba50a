"""Embeddings: teachers' features are distilled into a small encoder, at several nested lengths."""
