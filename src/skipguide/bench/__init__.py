"""What a guided step and a layer cost."""
