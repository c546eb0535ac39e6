"""How a denoiser is weakened, and the prefix that weak passes share with the conditional pass."""
