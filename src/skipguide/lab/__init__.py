"""The small models that ship with the package: their world, training, judge, cards and gallery."""
