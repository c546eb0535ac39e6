"""What is known of each model family, as data, and how it is looked up."""
