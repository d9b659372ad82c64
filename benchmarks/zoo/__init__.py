"""Architectures of other libraries, and what their conversion needs."""
