"""Random faults against a real search: `python -m tests.soak FOLDER`."""
