"""A payload across: the two ends of the link, what they say to each other, and what it costs."""
