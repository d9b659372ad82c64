"""Architectures of other libraries, and what their conversion needs.

Each is built small from its configuration, without downloads, and goes through all that the library
promises. The tests run them, and docs/zoo.md shows them.
"""
