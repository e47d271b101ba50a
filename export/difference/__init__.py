"""Why two variants of a bundle differ: run layer by layer, layers that create error alone, and what makes it vanish."""
