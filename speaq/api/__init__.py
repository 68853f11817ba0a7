"""What `from speaq import …` gives: runs, searches, data sets and configs by their paths, as text or `Path`."""
