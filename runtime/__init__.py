"""The device: bundle, preprocessing, DICOM, sessions, engine. Imports numpy and little else."""
