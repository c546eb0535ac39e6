"""The small models shipped with the package: their world, training, judge, cards and gallery."""
