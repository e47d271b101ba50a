"""What a prediction becomes: DICOM structured report, secondary capture with the heat map, FHIR report.

`results` makes them all; `assessment` is what they have in common. Nothing here touches disk or network, and equal
input gives equal bytes.
"""
