"""Label terms and distillation terms, one a file; `table` names them all."""
