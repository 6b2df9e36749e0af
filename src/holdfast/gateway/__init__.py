"""The gateway: Envoy's configuration, from a few facts."""
