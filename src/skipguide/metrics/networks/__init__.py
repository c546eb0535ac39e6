"""The networks of the metrics, for inference only: each loads the checkpoint that its publisher
offers, key by key."""
