"""What an embedding is compared with: modules without trained weights, whose buffers are the normal cases."""
