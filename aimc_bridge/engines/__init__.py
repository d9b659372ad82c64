"""The engines: the interface that all of them have, and one package per engine."""
