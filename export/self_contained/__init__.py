"""The device's preprocessing and decisions as ONNX graphs, and one file of both with a network between them."""
