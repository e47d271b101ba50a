"""A policy, and the verdict that it gives of a report."""
