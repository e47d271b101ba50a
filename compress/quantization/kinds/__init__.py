"""What differs between kinds of task when candidates are judged; `table` finds it."""
