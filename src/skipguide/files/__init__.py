"""Read and write videos, images, checkpoints and the packaged weights."""
