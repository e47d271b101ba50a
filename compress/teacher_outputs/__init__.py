"""What a teacher answers on a study's images, computed once and kept in shards."""
