"""A module for each page; see `speaq.explore`."""
