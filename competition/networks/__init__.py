"""Spec, ImageNet weights -> a network: `build_network(spec)`, `create_network(spec, weights)`."""
