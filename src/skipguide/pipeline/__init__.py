"""Put the method on a running diffusers pipeline, and take it off again."""
