"""The report's page, one section a file."""
