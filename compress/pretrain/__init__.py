"""Self-supervised pre-training on unlabelled images."""
