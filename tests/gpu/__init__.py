"""`python -m tests.gpu`: everything that has to be known about a card, in minutes."""
