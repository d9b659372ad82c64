"""Hardware-aware training in the loops of other libraries, one module for each."""
