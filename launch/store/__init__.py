"""Runs and searches at the URL of an object store."""
