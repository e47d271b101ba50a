"""Make a large medical-imaging model run beside the scanner, and prove that nothing important was lost."""

__version__ = "0.1.0"
