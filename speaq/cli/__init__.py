"""The command line: parse, call, print. What is below here returns values and prints nothing."""
