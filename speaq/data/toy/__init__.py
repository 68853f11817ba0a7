"""A generated world in the Visual Genome format."""
