"""How columns beside the image join an encoder's embedding; one technique a file, `table` finds it."""
