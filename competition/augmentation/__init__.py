"""How images vary in training: `compile_augmentation(config, image_shape, num_classes)`."""
