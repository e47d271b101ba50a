"""Graph passes on ONNX, one a file; `pipeline` puts them in order."""
