"""Slides larger than memory: readers, tissue, tiles, a bundle over all of them, and what comes of it."""
