"""One trial, on whichever node it runs."""
