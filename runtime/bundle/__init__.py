"""The artefact: manifest, archive, and reading both with every hash checked."""
