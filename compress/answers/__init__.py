"""What a teacher answered, computed once and kept in shards."""
