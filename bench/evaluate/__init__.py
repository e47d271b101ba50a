"""What a model answers on every case of a split, and how two models' answers compare."""
