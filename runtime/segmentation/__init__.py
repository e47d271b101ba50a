"""What a network that answers for every pixel says of an image: probabilities, label map, regions, pictures."""
