"""The networks of the metrics, for inference only; each loads its publisher's checkpoint."""
