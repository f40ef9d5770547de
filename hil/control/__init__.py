"""The control channel: messages between the two halves beside the radio."""
