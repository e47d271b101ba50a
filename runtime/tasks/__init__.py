"""What differs between kinds of task on the device; `table` finds it."""
