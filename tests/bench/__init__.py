"""Timings, each beside a fixed calibration workload measured in the same run, so that machines compare."""
