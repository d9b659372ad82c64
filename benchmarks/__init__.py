"""Programs over the library: three tasks, their data, their digital training, the benchmark."""
