"""Training through fake quantization, consistent with what `int8` writes."""
