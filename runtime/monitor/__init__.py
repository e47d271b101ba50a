"""What a device counts of its images and answers, whether they drift, and how a candidate would have answered."""
