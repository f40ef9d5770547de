"""What the two halves say to each other beside the radio, and how it travels."""
