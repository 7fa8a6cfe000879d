"""Right outputs of the programs that some tasks ask for, kept apart from the tasks' tests, which hold only digests."""
