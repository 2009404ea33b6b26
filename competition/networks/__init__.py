"""What is trained and submitted: `build_network(spec)`, `create_network(spec, weights)`; reads ImageNet weights."""
