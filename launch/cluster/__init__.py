"""The connection to Ray, its nodes, and whether they can do what is asked."""
