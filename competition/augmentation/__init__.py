"""What an image meets in training: `compile_augmentation(settings, image_shape, num_classes)`."""
