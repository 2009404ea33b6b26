"""A trained run -> a zip that is proven to run."""
