"""Figures as SVG, drawn without a plotting library."""
