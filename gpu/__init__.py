"""What runs once on a machine with a GPU: checks, a benchmark, and the archive that takes both there."""
