"""Students: named, scaled copies of a teacher, or chosen by a budget on the target."""
