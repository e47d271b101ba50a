"""Teachers, students, fine-tuning, distillation, pruning, quantization."""
