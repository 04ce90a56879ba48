"""Several judges' scores fused into a consensus, with how far each judge can be relied on."""
