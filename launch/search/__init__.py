"""Which trial comes next, and which one stops: Optuna and Ray Tune."""
