"""Augmentation of training images: `compile_augmentation(config, image_shape, num_classes)`."""
