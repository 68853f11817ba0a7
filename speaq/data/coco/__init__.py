"""Foreign annotations of scene graphs, converted to the Visual Genome format."""
