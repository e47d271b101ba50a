"""How long networks and their layers take on a target."""
