"""INT8 quantization of ONNX graphs: one calibration, one Q/DQ writer, a placement a backend; one technique a file."""
