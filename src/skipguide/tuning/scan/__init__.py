"""The scan: what skipping each layer does to the prediction, as a map of the layers."""
