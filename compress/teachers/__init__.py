"""Teachers of every origin behind one protocol; `open` finds the right one."""
