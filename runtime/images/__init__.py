"""Image files: which kind, how large, and their pixels."""
