"""Scene graphs of photos that are in no data set: predict, write, draw."""
