"""The page about a search, its figures, and the exported table."""
