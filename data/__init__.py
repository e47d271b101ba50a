"""Studies: cases, splits, patients, subgroups, and the synthetic study."""
