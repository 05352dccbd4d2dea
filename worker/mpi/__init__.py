"""One worker over several MPI ranks: the command line that starts them, the link between them, and who watches whom."""
