"""Attribution maps of two models on the same images, one method a file."""
