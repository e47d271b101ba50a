"""The engine that fine-tuning, distillation, recovery, pre-training and quantization-aware training share."""
