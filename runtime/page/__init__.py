"""A page for people: drop an image, see what the network says of it; served on loopback, kept nowhere."""
