"""Networks as they are built, saved, rebuilt and looked into."""
