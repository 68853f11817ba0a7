"""Scene graphs of pictures: predicted, drawn, exported."""
