"""The DICOM node: images in from a modality, findings out to a PACS, and nothing acknowledged is ever lost."""
