"""Programs that use the library: three tasks, their data, their training, and the studies."""
