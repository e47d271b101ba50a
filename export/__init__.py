"""(nn.Module, ImageSpec, Task) to ONNX and OpenVINO, with parity checked."""
