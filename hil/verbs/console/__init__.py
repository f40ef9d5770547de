"""What the verbs share: options, the screen, how a verb ends."""
