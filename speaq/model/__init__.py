"""The network: backbone, detector, relation decoder."""
