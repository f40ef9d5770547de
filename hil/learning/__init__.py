"""Training the controller: rounds that are cheap to repeat, learners, and their weights."""
