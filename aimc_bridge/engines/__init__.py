"""What the engines are made of: the interface, and one package for each engine."""
