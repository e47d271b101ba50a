"""The bench's nouns, one a file: targets, measurements, evaluations, policies, verdicts."""
