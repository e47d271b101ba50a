"""Training a student on what its teachers answer."""
