"""A search as a record: plan, ledger, results. No Ray, no Optuna."""
