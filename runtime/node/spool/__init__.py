"""What the node has acknowledged, and what became of it, on disk."""
