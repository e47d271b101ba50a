"""Evidence: one signed file from which a verdict can be derived again, and what an auditor reads beside it."""
