"""Runs our public functions on the reference's inputs and compares with its outputs."""
