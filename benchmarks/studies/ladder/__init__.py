"""The ladder: from the replication's physics to the paper's, one change at a time."""
