"""One statistical method a file, each opening with its formula and source."""
