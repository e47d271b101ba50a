"""DICOM files to stored values as PS3.3 and PS3.5 define them."""
