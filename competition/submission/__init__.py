"""A trained run -> a zip that is proven to run: `package_run(run, members, images, ...)`."""
