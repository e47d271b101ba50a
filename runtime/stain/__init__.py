"""Normalisation of histological stains: one technique a file; `table` chooses by the rule of an `ImageSpec`."""
