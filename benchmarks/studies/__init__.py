"""Studies: what a benchmark does between its command line and its pages."""
